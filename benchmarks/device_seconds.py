"""How much sooner real trainings reach a hypervolume with a time budget, and with rungs too.

    python benchmarks/device_seconds.py [--images cifar10_jpeg.tar.gz] [--seeds 0 1 2]

The data and the space are those of ``rungs.py``, on one core. The arms of a seed:

    trials        the default search, --trials whole trainings
    budget        the same with a time budget of half of the seconds that those took
    budget+rungs  the same with --rungs auto

Load on the machine changes a training's seconds, so a line ``a + b * MACs`` of an epoch's seconds
is fitted to all trainings of a seed, and time is counted by it. Printed for each arm, as shares of
the time of the arm "trials": when it reached .9 and .95 of that one's final hypervolume of
validation accuracy and log10 of the parameters; and what it had after half of that time, found and
by the mean test accuracy of the front's networks in --again new trainings.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import optuna
from rungs import Again, Arm, plan, unpack, volume

from nas.driver.equal_cost import trained_epochs
from nas.driver.ladder import Ladder
from nas.driver.time_budget import line
from nas.job import DataRef
from nas.store import TrialRow

ARMS = {"trials": "off", "budget": "off", "budget+rungs": "rungs"}  # those of rungs.py


@dataclass(frozen=True)
class Timed:
    """A search's trials in the order of their ends, and the seconds until each."""

    arm: Arm
    seconds: Sequence[float]

    def until(self, seconds: float) -> list[TrialRow]:
        pairs = zip(self.seconds, self.arm.trials, strict=True)
        return [row for end, (_, row) in pairs if end <= seconds and row.state == "finished"]

    def found(self, seconds: float = math.inf) -> float:
        return volume((row.accuracy or 0.0, row.params) for row in self.until(seconds))

    def reached(self, level: float) -> float:
        """The seconds until a hypervolume; infinite where it was not reached."""
        return next((end for end in self.seconds if self.found(end) >= level), math.inf)


def pace(arms: Sequence[Arm]) -> tuple[float, float]:
    """``a`` and ``b`` of an epoch's seconds, ``a + b * MACs``."""
    rows = [row for arm in arms for _, row in arm.trials if row.seconds and trained_epochs(row)]
    return line(np.array([(row.macs, (row.seconds or 0) / trained_epochs(row)) for row in rows]))


def searched(seed: int, trials: int, epochs: int, ref: DataRef, folder: Path) -> dict[str, Timed]:
    arms: dict[str, Arm] = {}
    for name, kind in ARMS.items():
        asked = plan(kind, seed, epochs, trials, ref, folder)
        if arms:
            took = sum(row.seconds or 0 for _, row in arms["trials"].trials)
            asked = dataclasses.replace(asked, trials=None, seconds=took / 2)
        arms[name] = Arm.run(asked, Ladder, folder / f"{name}.db")
    a, b = pace([*arms.values()])
    return {
        name: Timed(
            arm, [*accumulate((a + b * row.macs) * trained_epochs(row) for _, row in arm.trials)]
        )
        for name, arm in arms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, help="an archive; digits, if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--again", type=int, default=2, help="trainings of each front's networks")
    told = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        ref = unpack(told.images, Path(temporary) / "images") if told.images else DataRef()
        for seed in told.seeds:
            folder = Path(temporary) / str(seed)
            folder.mkdir()
            arms = searched(seed, told.trials, told.epochs, ref, folder)
            anew = Again(ref, told.again)
            whole = arms["trials"]
            time, end = whole.seconds[-1], whole.found()
            level = anew.volume(whole.arm, math.inf)
            for name, timed in arms.items():
                sooner = [timed.reached(share * end) / time for share in (0.9, 0.95)]
                ends = zip(timed.seconds, timed.arm.trials, strict=True)
                epochs = max((epochs for s, (epochs, _) in ends if s <= time / 2), default=0)
                again = anew.volume(timed.arm, epochs) / level
                print(
                    f"seed {seed}  {name:12} {len(timed.seconds):3} trials; .9 and .95 reached "
                    f"after {sooner[0]:.2f} and {sooner[1]:.2f}; after half: found "
                    f"{timed.found(time / 2) / end:.3f}, again {again:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
