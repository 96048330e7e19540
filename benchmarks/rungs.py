"""What early stopping saves: searches of real trainings with rungs, without, and at random.

    python benchmarks/rungs.py [--images cifar10_jpeg.tar.gz] [--seeds 0 1] [--arms off rungs asha]

On digits, or on an archive of train/CLASS/*.jpg and test/CLASS/*.jpg (CIFAR-10's as JPEG files were
used), of which 2,000 each train, validate and test, at 16x16. The arms of a seed, on one core:

    off     the default sampler, every candidate trained whole under the default recipe
    rungs   the same sampler with --rungs auto; fewer trials, most of them short
    asha    random draws at the same rungs; the most accurate third goes on (Li et al. 2020)
    moasha  the same; the first third by non-dominated sorting (Schmucker et al. 2021)
    ours+moasha  the default sampler, and the candidates go on as in moasha
    random  uniform draws, trained whole

All arms but off have a third of its epochs, and all with rungs go on from the same checkpoints.

Printed: what each arm had after a third of the epochs of the arm off, relative to what that had at
the end. There are two figures, as more trainings mean more lucky ones: "found", by the validation
accuracies seen, and "again", by the mean test accuracy of each network of the front when retrained
--again times. --output is a JSON file, written after each arm; arms already in it are not repeated.
It holds, by data set, arm and seed, "found", a pair for each fully trained candidate: the epochs
trained so far by the whole search (including those repeated after a rung), and the hypervolume of
accuracy and log10 of the parameters, from accuracy 0.1 and the space's largest network; "again",
that share; for off also "level", the hypervolume "again" of its end; and "seconds", of the search.
--figure draws all that it holds. --keep is a folder for the records of the searches.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna

from nas import pareto
from nas.data import describe
from nas.driver import rungs, tradeoffs
from nas.driver.equal_cost import trained_epochs
from nas.driver.finalists import train_again
from nas.driver.ladder import Front, Ladder, Verdict
from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.driver.rungs import Floats
from nas.job import DataRef, Job, Recipe
from nas.metrics import ACCURACY, Direction, scaled
from nas.spaces.bounds import Bound
from nas.spaces.space import load_space
from nas.store import StudyRow, TrialRow, open_store
from nas.workers import open_pool

PER_CLASS = 200  # of train, of validation and of test each
PARAMS, MACS = 200_000.0, 3_000_000.0
MORE = 3  # candidates with rungs, as some ladders send on fewer than a third
DIRECTIONS: tuple[Direction, ...] = ("max", "min")


class Asha(Ladder):
    """Asynchronous successive halving (Li et al. 2020, algorithm 2): of all that ever came to a
    rung the best third go on, by accuracy; the others wait, whatever they promise."""

    def __init__(self, study: StudyRow, levels: Sequence[int]) -> None:
        super().__init__(study, levels)
        self._came: dict[int, dict[int, TrialRow]] = {}  # by rung and number

    def verdict(self, row: TrialRow, front: Front) -> Verdict:
        rung = row.rungs[-1][0]
        self._came.setdefault(rung, {})[row.number] = row
        return "running" if self.next_up(rung, front, row) is row else "paused"

    def next_up(self, rung: int, front: Front, *arriving: TrialRow) -> TrialRow | None:
        came = list(self._came.get(rung, {}).values())
        best = [came[k].number for k in self.ranked(came)[: len(came) // rungs.ETA]]
        there = {row.number: row for row in [*self.at(rung), *arriving]}
        return next((there[number] for number in best if number in there), None)

    def ranked(self, rows: Sequence[TrialRow]) -> list[int]:
        return sorted(range(len(rows)), key=lambda k: -rows[k].rungs[-1][1])

    def hopeless(self, front: Front) -> list[TrialRow]:
        return []

    def surplus(self, front: Front, most: int = 0) -> list[TrialRow]:
        return []


class MoAsha(Asha):
    """The same by non-dominated sorting; within a front by an epsilon-net (Schmucker et al. 2021,
    section 4: first the most accurate, then always who is farthest from all before), here of
    accuracy and the logarithm of the costs, each by the range that was seen at the rung. The order
    is that of Syne Tune 0.16's parts (200 random rungs); its scheduler takes the indices of those
    sorted for their ranks, so it was not used."""

    def ranked(self, rows: Sequence[TrialRow]) -> list[int]:
        if not rows:
            return []
        names = [name for name, _ in self._study.objectives]
        points = np.array(
            [
                [scaled(n, row.rungs[-1][1] if n == ACCURACY else row.value(n)) for n in names]
                for row in rows
            ]
        )
        points /= np.maximum(np.ptp(points, axis=0), 1e-12)
        directions = [direction for _, direction in self._study.objectives]
        left, order = np.arange(len(rows)), []
        while len(left):
            front = left[pareto.front(points[left], directions)]
            order += _spread(points, front.tolist(), names.index(ACCURACY))
            left = np.setdiff1d(left, front)
        return order


def _spread(points: Floats, some: list[int], first: int) -> list[int]:
    """Clarkson's epsilon-net of the points ``some``, from the one that has most of ``first``."""
    order = [max(some, key=lambda k: points[k, first])]
    while left := [k for k in some if k not in order]:
        apart = {k: np.linalg.norm(points[order] - points[k], axis=1).min() for k in left}
        order.append(max(left, key=lambda k: float(apart[k])))
    return order


# The sampler of each arm, and who decides at rungs; None: every candidate is trained whole.
ARMS: Mapping[str, tuple[str, type[Ladder] | None]] = {
    "off": ("default", None),
    "rungs": ("default", Ladder),
    "asha": ("random", Asha),
    "moasha": ("random", MoAsha),
    "random": ("random", None),
    "ours+moasha": ("default", MoAsha),
}


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
    def run(cls, plan: Plan, ladder: type[Ladder] | None, file: Path) -> Arm:
        store = open_store(f"sqlite:///{file}")
        pool = open_pool(0)
        try:
            with mock.patch("nas.driver.loop.Ladder", ladder or Ladder):
                search(plan, store, pool)
            study = store.find_study(plan.study)
            rows = sorted(store.trials(study.id), key=lambda r: r.finished or 0)
        finally:
            pool.close()
            store.close()
        return cls(study, list(zip(accumulate(map(trained_epochs, rows)), rows, strict=True)))

    @property
    def epochs(self) -> int:
        return self.trials[-1][0]

    def finished(self, epochs: float) -> list[TrialRow]:
        """Those that were fully trained within this many epochs."""
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
            told = [train_again(study, row, self.data, k) for k in range(self.seeds)]
            self.scores[row.fingerprint] = float(np.mean([training.test for training in told]))
        return self.scores[row.fingerprint]

    def volume(self, arm: Arm, epochs: float) -> float:
        """The hypervolume of an arm's front after this many epochs."""
        front = tradeoffs.pareto(arm.study, arm.finished(epochs))
        return volume((self.score(arm.study, row), row.params) for row in front)


Line = tuple[int, float]  # epochs, hypervolume
Results = dict[str, dict[str, dict[str, dict[str, Any]]]]  # by data set, arm and seed


def after(lines: Sequence[Line], epochs: float) -> float:
    """The hypervolume found within this many epochs."""
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
            colour = f"C{[*ARMS].index(arm)}"
            panel.plot(spent, found.mean(axis=0), color=colour, label=arm)
            ends = found.min(axis=0), found.max(axis=0)
            panel.fill_between(spent, *ends, color=colour, alpha=0.15, linewidth=0)
        panel.set(title=name, xlabel="epochs trained", ylabel="hypervolume")
    max(zip(panels, results.values(), strict=True), key=lambda pair: len(pair[1]))[0].legend()
    figure.savefig(file, dpi=100)


def plan(arm: str, seed: int, epochs: int, trials: int, data: DataRef, folder: Path) -> Plan:
    """The search of an arm: with ``trials`` whole trainings in the arm off, and a third of their
    epochs in the others, in the mean of their ladders."""
    sampler, ladder = ARMS[arm]
    info = describe(data)
    shape = (info.channels, info.height, info.width)
    space = load_space("vgg_like", shape, len(info.classes))
    bounds = {"params": Bound(True, PARAMS), "macs": Bound(True, MACS)}
    job = Job(pattern="", data=data, epochs=epochs, seed=seed, latency=False)
    whole = Plan(
        study="s",
        space=dataclasses.replace(space, constraints=bounds),
        job=job,
        trials=trials if arm == "off" else math.ceil(trials / 3),
        sampler=sampler,
    )
    if ladder is None:
        return whole
    levels = rungs.auto(epochs)
    first, last = rungs.costs(levels)
    each = first + (last - first) / rungs.ETA  # epochs
    return dataclasses.replace(
        whole,
        job=dataclasses.replace(job, recipe=Recipe(schedule="rungs")),
        trials=math.ceil(trials / 3 * epochs / each) + MORE,
        rungs=levels,
        artifacts=str(folder / f"{arm}-{seed}"),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, help="an archive; digits, if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS][:5])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--again", type=int, default=2, help="trainings of each front's networks")
    parser.add_argument("--output", type=Path, default=Path("rungs.json"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--keep", type=Path)
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: Results = json.loads(told.output.read_text()) if told.output.exists() else {}
    name = told.images.name.partition(".")[0] if told.images else "digits"
    made = results.setdefault(name, {})
    arms = [arm for arm in ARMS if arm in told.arms]
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        images = Path(temporary) / "images"
        ref = unpack(told.images, images) if told.images else DataRef()
        for seed in told.seeds:
            anew = Again(ref, told.again)
            for arm in arms:
                if str(seed) in made.get(arm, {}):
                    continue
                began = time.perf_counter()
                asked = plan(arm, seed, told.epochs, told.trials, ref, folder)
                ran = Arm.run(asked, ARMS[arm][1], folder / f"{name}-{arm}-{seed}.db")
                entry: dict[str, Any] = {"found": ran.lines()}
                entry["seconds"] = round(time.perf_counter() - began)
                if arm == "off":
                    entry["level"] = anew.volume(ran, math.inf)
                off = entry if arm == "off" else made["off"][str(seed)]
                spent, end = off["found"][-1]
                share = after(entry["found"], spent / 3) / end
                entry["again"] = round(anew.volume(ran, spent / 3) / off["level"], 4)
                made.setdefault(arm, {})[str(seed)] = entry
                told.output.write_text(json.dumps(results))
                print(
                    f"seed {seed}  {arm:11} {len(ran.trials):3} trials, {ran.epochs:4} epochs, "
                    f"{entry['seconds']:4} s; after a third of the {spent} epochs of off, over its "
                    f"end: found {share:.3f}, again {entry['again']:.3f}",
                    flush=True,
                )
    if told.figure:
        draw(results, told.figure)


if __name__ == "__main__":
    main()
