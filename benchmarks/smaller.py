"""From large to small: distilled beside its control, pruned beside its control, and a cascade.

    python benchmarks/smaller.py --cifar CIFAR --mnist MNIST -o DIR

CIFAR is a folder of CIFAR-10's images as files, train/CLASS/*.jpg and test/CLASS/*.jpg; MNIST one
that holds MNIST/raw with the four files. Of each a part is used that a CPU trains on in minutes.
Prints one line per result, and keeps it in DIR: if interrupted, the same command resumes. ``--only
distill cifar`` runs what is named. On one busy thread digits take a minute, MNIST three and
CIFAR-10 fifteen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas import data
from nas.cli.cascades import costs_of
from nas.cli.models import file_name
from nas.data import DATASETS, Dataset, Images, Info
from nas.job import DataRef, Job, Recipe
from nas.language.architecture import parse
from nas.report.smaller import gain_text
from nas.training import teacher
from nas.training.cascade import Cascade, Member, timed
from nas.training.cascade_choice import Candidate, Demand, decide
from nas.training.evaluation import compare, evaluate
from nas.training.models import load_model, save_model
from nas.training.paired import Paired, train_paired
from nas.training.predict import sized
from nas.training.prune import pruned, renormalised
from nas.training.single import train

STAGE = "[[CONV({0}) -> BN -> RELU]*{1} -> POOL]"


def plain(count: int, *widths: int) -> str:
    return f"INPUT -> {' -> '.join(STAGE.format(w, count) for w in widths)} -> GAP -> FC"


@dataclass(frozen=True)
class Task:
    """``counts`` of train, validation and test images; ``networks`` from the least to the largest:
    the first convolutional one is the student, the last its teacher."""

    counts: tuple[int, int, int] | None
    epochs: int
    networks: tuple[str, ...]


LINEAR = "INPUT -> FLATTEN -> FC"
TASKS: Mapping[str, Task] = {
    "digits": Task(None, 20, (LINEAR, plain(1, 4, 8), plain(1, 8, 16), plain(2, 16, 32))),
    "mnist": Task((1_000, 2_000, 5_000), 8,
                  (LINEAR, plain(1, 4, 8, 16), plain(1, 8, 16, 32), plain(2, 16, 32, 64))),
    "cifar": Task((1_500, 2_000, 5_000), 8,
                  (LINEAR, plain(1, 8, 16, 32), plain(1, 16, 32, 64), plain(2, 16, 32, 64),
                   plain(2, 32, 64, 128))),
}  # fmt: skip


def registered(name: str, folder: str, most: int) -> DataRef:
    """The images of a task, at most ``most`` to train on where given."""
    counts = TASKS[name].counts
    if counts is None:
        return DataRef()
    counts = (most or counts[0], *counts[1:])
    called = f"{counts[0]} of {name}"
    source = DataRef(name="imagefolder" if name == "cifar" else name, dir=folder)
    whole, tests = data.load(source, "train"), data.load(source, "test")
    order = np.random.RandomState(0).permutation(whole.rows)
    ends = np.cumsum(counts[:2])
    own = np.random.RandomState(0).permutation(tests.rows)[: counts[2]]
    parts = {
        "train": Images(whole.pixels, whole.labels, order[: ends[0]]),
        "validation": Images(whole.pixels, whole.labels, order[ends[0] : ends[1]]),
        "test": Images(tests.pixels, tests.labels, own),
    }
    told: Info = dataclasses.replace(data.describe(source), parts=tuple(parts))
    DATASETS[called] = Dataset(
        about=name, describe=lambda _: told, read=lambda _, part: parts[part]
    )
    return DataRef(name=called)


def job_of(task: Task, ref: DataRef, pattern: str, **settings: Any) -> Job:
    info = data.describe(ref)
    made = parse(pattern, info.shape, len(info.classes))
    return Job(pattern=str(made), data=ref, epochs=task.epochs, recipe=Recipe(**settings))


def model_of(job: Job, folder: Path) -> Path:
    """The file of a trained network."""
    place = folder / f"{file_name(job)}.safetensors"
    if not place.exists():
        train(job, lambda _: None, file=place)
    return place


def taught(job: Job, file: Path, **settings: Any) -> Job:
    recipe = job.recipe.but({"teacher": teacher.digest_of([load_model(file)]), **settings})
    return dataclasses.replace(job, recipe=recipe, teachers=(str(file),))


# --- what is measured ----------------------------------------------------------------------------


def distill(name: str, ref: DataRef, folder: Path, seeds: int, **settings: Any) -> dict[str, Any]:
    task = TASKS[name]
    file = model_of(job_of(task, ref, task.networks[-1]), folder)
    control = job_of(task, ref, task.networks[1])
    jobs = {"distilled": taught(control, file, **settings), "control": control}
    found = train_paired(jobs, seeds, folder, file_name)
    return told(found) | {"teacher, test": load_model(file).card.metrics["test_accuracy"]}


def told(found: Paired) -> dict[str, Any]:
    return {
        "test": float(np.mean(found.treatment.test)),
        "control, test": float(np.mean(found.control.test)),
        "gain, validation": gain_text(found.validation),
        "gain, test": gain_text(found.test),
        "params": found.treatment.best.architecture.params,
    }


def sweep(name: str, ref: DataRef, folder: Path, seeds: int) -> dict[str, Any]:
    """The settings of distillation by their gain on the validation images alone, of two seeds."""
    tried = [(w, t, 0.0) for w in (0.5, 0.7, 0.9) for t in (2.0, 4.0)] + [(0.7, 4.0, 10.0)]
    names = ("distill", "temperature", "attention")
    return {
        str(values): distill(name, ref, folder, 2, **dict(zip(names, values, strict=True)))[
            "gain, validation"
        ]
        for values in tried
    }


def prune(name: str, ref: DataRef, folder: Path, seeds: int) -> dict[str, Any]:
    """The last network but one, or the last where there are few, at half of its widths."""
    task = TASKS[name]
    file = model_of(job_of(task, ref, task.networks[-2 if len(task.networks) > 4 else -1]), folder)
    model = load_model(file)
    narrow = renormalised(pruned(model, 0.5), ref)
    start = folder / f"pruned-{narrow.digest}.safetensors"
    save_model(start, narrow.network, narrow.card)
    more = task.epochs // 2
    way = job_of(task, ref, str(narrow.architecture), init=str(start))
    way = dataclasses.replace(way, epochs=more)
    control = job_of(task, ref, str(narrow.architecture))
    control = dataclasses.replace(control, epochs=task.epochs + more)
    found = train_paired({"pruned": way, "control": control}, seeds, folder, file_name)
    before = {
        "unpruned, test": model.card.metrics["test_accuracy"],
        "before it is trained on, validation": evaluate(narrow, ref, "validation").accuracy,
        "unpruned params": model.architecture.params,
    }
    return told(found) | before


def cascade(name: str, ref: DataRef, folder: Path, seeds: int) -> dict[str, Any]:
    """Of the task's networks, for each cost the cascade that has the best network's accuracy."""
    task = TASKS[name]
    models = [load_model(model_of(job_of(task, ref, text), folder)) for text in task.networks]
    found = [evaluate(model, ref, "validation") for model in models]
    costs = [costs_of(model, torch.device("cpu")) for model in models]
    best = max(e.accuracy for e in found)
    results: dict[str, Any] = {
        "networks": [
            {"params": model.architecture.params, "validation": e.accuracy, **each}
            for model, e, each in zip(models, found, costs, strict=True)
        ]
    }
    for cost in ("latency_ms", "macs"):
        candidates = [
            Candidate.of(e.probabilities, each[cost]) for e, each in zip(found, costs, strict=True)
        ]
        verdict = decide(candidates, found[0].labels, Demand(accuracy=best), best_single=True)
        single, chosen = verdict.single, verdict.cascade
        assert single
        alone = evaluate(models[single.members[0]], ref, "test")
        of: dict[str, Any] = {"single": single.members, "single, test": alone.accuracy}
        of["held out"] = {
            n: (each.held_out, each.cost) for n, each in verdict.cross_validated.items() if each
        }
        if chosen:
            least = [*chosen.thresholds, -math.inf]
            members = zip(chosen.members, least, strict=True)
            made = Cascade(
                [Member(models[i], verdict.candidates[i].temperature, at) for i, at in members], {}
            )
            tested = evaluate(made, ref, "test")
            pixels = sized(tested.images[0], tested.images[0].rows[:200], made.input)
            reach = [1 - sum(made.shares[:k]) for k in range(len(made.shares))]
            own = sum(r * candidates[i].cost for r, i in zip(reach, chosen.members, strict=True))
            of |= {
                "members": chosen.members,
                "shares, test": made.shares,
                "test": tested.accuracy,
                "interval": tested.interval,
                "cost of the single": own / single.cost,
                "measured ms": timed(made, pixels),
                "single, measured ms": timed(models[single.members[0]], pixels),
                "p": compare(tested, alone).p,
            }
        results[cost] = of
    return results


MEASURED: Mapping[str, Callable[[str, DataRef, Path, int], dict[str, Any]]] = {
    "distill": distill,
    "sweep": sweep,
    "prune": prune,
    "cascade": cascade,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", default="", help="the folder of CIFAR-10's images")
    parser.add_argument("--mnist", default="", help="the folder of MNIST")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, default=0, help="train images, other than the task's")
    parser.add_argument("--only", nargs="+", default=[*TASKS, *MEASURED])
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    kept = given.output / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    places = {"digits": "", "cifar": given.cifar, "mnist": given.mnist}
    tasks = [name for name in TASKS if name in given.only and (places[name] or name == "digits")]
    for name in tasks or [n for n in TASKS if places[n] or n == "digits"]:
        ref = registered(name, places[name], given.train)
        for what in [m for m in MEASURED if m in given.only] or MEASURED:
            began = time.process_time()
            key = f"{what} {name}{f' {given.train}' if given.train else ''}"
            if key not in results:
                found = MEASURED[what](name, ref, given.output, given.seeds)
                results[key] = found | {"seconds": time.process_time() - began}
                kept.write_text(json.dumps(results, indent=1))
            print(f"{key}: {json.dumps(results[key])}", flush=True)


if __name__ == "__main__":
    main()
