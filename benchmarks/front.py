"""Draws the Pareto front of a study: python benchmarks/front.py --study NAME -o docs/front.png"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from nas.driver.tradeoffs import pareto
from nas.store import TrialRow, open_store

INK, PALE, ACCENT = "#1f2933", "#b8c4ce", "#c2410c"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--storage", default="sqlite:///nas.db")
    options.add_argument("--study", required=True)
    options.add_argument("-o", "--output", default="docs/front.png")
    options.add_argument("--floor", type=float, default=0.0, help="leave out what is below, in %%")
    told = options.parse_args()
    store = open_store(told.storage, create=False)
    study = store.find_study(told.study)
    rows = [r for r in store.trials(study.id, states=("finished", "reused")) if r.accuracy]
    shown = [r for r in rows if 100 * (r.accuracy or 0) >= told.floor]
    best = [row for row in pareto(study, rows) if row in shown]
    draw(shown, best, f"{study.space} on {study.dataset}: {len(rows)} networks", told.output)


def draw(rows: list[TrialRow], best: list[TrialRow], title: str, path: str) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=150)
    latency = [row.latency_ms or 0 for row in rows]
    area = [30 + 260 * value / max([*latency, 1e-9]) for value in latency]
    axes.scatter([r.params for r in rows], [y(r) for r in rows], area, PALE, alpha=0.75, lw=0)
    line = sorted(best, key=lambda row: row.params)
    axes.step([r.params for r in line], [y(r) for r in line], where="post", color=ACCENT, lw=1.5)
    axes.scatter([r.params for r in line], [y(r) for r in line], 26, ACCENT, zorder=3)
    for row in line:
        axes.annotate(
            f"{y(row):.1f} %  {row.latency_ms or 0:.2f} ms", (row.params, y(row)), (4, -11),
            textcoords="offset points", fontsize=7, color=INK,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("validation accuracy, %")
    axes.set_title(f"{title}; area: latency at batch 1", fontsize=10, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path)


def y(row: TrialRow) -> float:
    return 100 * (row.accuracy or 0.0)


if __name__ == "__main__":
    main()
