"""What early stopping saves: searches of real trainings with rungs, without, and at random.

    python benchmarks/rungs.py [--images cifar10_jpeg.tar.gz] [--seeds 0 1] [--trials 48]

On digits, or on an archive of train/CLASS/*.jpg and test/CLASS/*.jpg (CIFAR-10's as JPEG files were
used), of which 2,000 each train, validate and test, at 16x16. Three arms a seed, on one core:

    off     the default sampler, every candidate trained whole under the default recipe
    rungs   the same sampler and recipe with --rungs auto; fewer trials, most of them short
    random  uniform draws, trained whole, as many as the epochs of the arm with rungs allow

Printed: what each arm had after a third of the epochs of the arm off, over what that had in the
end. It is told twice, as the more trainings the more of them are lucky: "found", by the validation
accuracies that were seen, and "again", by the mean test accuracy of each network of the front when
it is trained anew, --again times. --output is a JSON file that holds, by data set, arm and seed,
"found", a pair for each candidate that was trained to the end: the epochs trained so far by the
whole search (what a rung's tail repeats is counted), and the hypervolume of accuracy and log10 of
the parameters, from accuracy 0.1 and the space's largest network; and "again", that share.
--figure draws all that it holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from nas import pareto
from nas.data import describe
from nas.driver import rungs, tradeoffs
from nas.driver.equal_cost import trained_epochs
from nas.driver.finalists import again
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.job import DataRef, Job, Recipe
from nas.spaces.space import Bound, load_space
from nas.store import StudyRow, TrialRow, open_store
from nas.workers import open_pool

PER_CLASS = 200  # of train, of validation and of test each
PARAMS, MACS = 200_000, 3_000_000
DIRECTIONS: tuple[pareto.Direction, ...] = ("max", "min")


def unpack(archive: Path, folder: Path) -> DataRef:
    """The first images of each class: to train, to validate and to test on."""
    counts: Counter[tuple[str, ...]] = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            part, *path = Path(member.name).parts[-3:]
            if not member.isfile() or len(path) < 2 or part not in ("train", "test"):
                continue
            counts[part, path[0]] += 1
            if part == "train" and counts[part, path[0]] > PER_CLASS:
                part = "val"
                counts[part, path[0]] += 1
            if counts[part, path[0]] <= PER_CLASS:
                member.name = str(Path(part, *path))
                tar.extract(member, folder, filter="data")
    return DataRef(name="imagefolder", dir=str(folder), size=16)


def volume(points: Iterable[tuple[float, int]]) -> float:
    """Of accuracies and parameters."""
    told = [(accuracy, math.log10(params)) for accuracy, params in points]
    return pareto.hypervolume(told, (0.1, math.log10(PARAMS)), DIRECTIONS)


@dataclass(frozen=True)
class Arm:
    """A search: its study, and its trials in the order of their ends, each with the epochs that the
    whole search had trained by then."""

    study: StudyRow
    trials: list[tuple[int, TrialRow]]

    @classmethod
    def run(cls, plan: Plan, folder: Path, name: str) -> Arm:
        store = open_store(f"sqlite:///{folder}/{name}-{plan.job.seed}.db")
        pool = open_pool(0)
        began = time.perf_counter()
        try:
            search(plan, store, pool)
            study = store.find_study(plan.study)
            rows = sorted(store.trials(study.id), key=lambda r: r.finished or 0)
        finally:
            pool.close()
            store.close()
        arm = cls(study, list(zip(accumulate(map(trained_epochs, rows)), rows, strict=True)))
        print(
            f"seed {plan.job.seed}  {name:7} {len(rows):3} trials, {arm.epochs:4} epochs, "
            f"{time.perf_counter() - began:5.0f} s, hypervolume {arm.found(math.inf):.4f}",
            flush=True,
        )
        return arm

    @property
    def epochs(self) -> int:
        return self.trials[-1][0]

    def finished(self, epochs: float) -> list[TrialRow]:
        """Those that were trained to the end within so many epochs."""
        return [row for spent, row in self.trials if spent <= epochs and row.state == "finished"]

    def found(self, epochs: float) -> float:
        return volume((row.accuracy or 0.0, row.params) for row in self.finished(epochs))

    def lines(self) -> list[Line]:
        ends = [spent for spent, row in self.trials if row.state == "finished"]
        return [(spent, self.found(spent)) for spent in [*ends, self.epochs]]


class Again:
    """Networks trained anew with seeds that no search has used, each once."""

    def __init__(self, data: DataRef, seeds: int) -> None:
        self.data, self.seeds = data, seeds
        self.scores: dict[str, float] = {}

    def score(self, study: StudyRow, row: TrialRow) -> float:
        """The mean test accuracy of a network under the default recipe."""
        if row.fingerprint not in self.scores:
            row = dataclasses.replace(row, recipe=dataclasses.asdict(Recipe()))
            told = [again(study, row, self.data, k) for k in range(self.seeds)]
            self.scores[row.fingerprint] = float(np.mean([training.test for training in told]))
        return self.scores[row.fingerprint]

    def volume(self, arm: Arm, epochs: float) -> float:
        """The hypervolume of an arm's front after so many epochs."""
        front = tradeoffs.pareto(arm.study, arm.finished(epochs))
        return volume((self.score(arm.study, row), row.params) for row in front)


Line = tuple[int, float]  # epochs, hypervolume
Results = dict[str, dict[str, dict[str, dict[str, Any]]]]  # by data set, arm and seed


def after(lines: Sequence[Line], epochs: float) -> float:
    """The hypervolume found within so many epochs."""
    return max([volume for spent, volume in lines if spent <= epochs], default=0.0)


def draw(results: Results, file: Path) -> None:
    """Hypervolume against epochs, a panel a data set: means over the seeds, and their ranges."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(results), 3.2), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (name, arms) in zip(panels, results.items(), strict=True):
        for arm, seeds in arms.items():
            searches = [told["found"] for told in seeds.values()]
            spent = range(20, min(lines[-1][0] for lines in searches) + 1, 4)
            found = np.array([[after(lines, e) for e in spent] for lines in searches])
            panel.plot(spent, found.mean(axis=0), label=arm)
            panel.fill_between(spent, found.min(axis=0), found.max(axis=0), alpha=0.15)
        panel.set(title=name, xlabel="epochs trained", ylabel="hypervolume")
    panels[0].legend()
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, help="an archive; digits, if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--more", type=float, default=0.625, help="trials with rungs, as a factor")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--again", type=int, default=2, help="trainings of each front's networks")
    parser.add_argument("--output", type=Path, default=Path("rungs.json"))
    parser.add_argument("--figure", type=Path)
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: Results = json.loads(told.output.read_text()) if told.output.exists() else {}
    name = told.images.name.partition(".")[0] if told.images else "digits"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ref = unpack(told.images, folder / "images") if told.images else DataRef()
        info = describe(ref)
        space = load_space("vgg_like", (info.channels, info.height, info.width), len(info.classes))
        bounds = {"params": Bound(True, PARAMS), "macs": Bound(True, MACS)}
        space = dataclasses.replace(space, constraints=bounds)
        for seed in told.seeds:
            job = Job(pattern="", data=ref, epochs=told.epochs, seed=seed, latency=False)
            off = Plan(study="s", space=space, job=job, trials=told.trials)
            stopping = dataclasses.replace(
                off,
                job=dataclasses.replace(job, recipe=Recipe(schedule="rungs")),
                trials=round(told.trials * told.more),
                rungs=rungs.auto(told.epochs),
                artifacts=str(folder / "artifacts"),
            )
            some = Arm.run(stopping, folder, "rungs")
            whole = Arm.run(off, folder, "off")
            draws = max(1, round(some.epochs / told.epochs))
            drawn = dataclasses.replace(off, sampler="random", trials=draws)
            arms = {"off": whole, "rungs": some, "random": Arm.run(drawn, folder, "random")}
            anew = Again(ref, told.again)
            third, found = whole.epochs / 3, whole.found(math.inf)
            level = anew.volume(whole, math.inf)
            for arm, made in arms.items():
                shares = made.found(third) / found, anew.volume(made, third) / level
                print(
                    f"seed {seed}  {arm:7} after a third of the {whole.epochs} epochs of off, over "
                    f"its end: found {shares[0]:.3f}, again {shares[1]:.3f}",
                    flush=True,
                )
                entry = {"found": made.lines(), "again": round(shares[1], 4)}
                results.setdefault(name, {}).setdefault(arm, {})[str(seed)] = entry
            told.output.write_text(json.dumps(results))
    if told.figure:
        draw(results, told.figure)


if __name__ == "__main__":
    main()
