"""The command that would make a study again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.driver.finalists import Report
from nas.job import Recipe
from nas.spaces.space import load_space, shipped
from nas.store import StudyRow, TrialRow


def search_command(study: StudyRow, rows: Sequence[TrialRow]) -> str:
    """The search as it would be typed. A space that does not ship is a file of its name; the
    plug-ins of a search are not in the record."""
    settings = study.settings
    same = study.space in shipped() and load_space(study.space).text == study.space_text
    told = ["nas", "search", "--space", study.space if same else f"{study.space}.yaml"]
    told += ["--study", study.name]
    told += [
        "--trials",
        str(sum(row.budgeted for row in rows)),
        "--epochs",
        str(settings["epochs"]),
    ]
    if study.dataset:
        told += ["--dataset", study.dataset]
    if study.directory:
        told += ["--data", study.directory]
        _, height, width = settings["input"]
        if height == width:
            told += ["--size", str(height)]
    if settings.get("skip_unreadable"):
        told += ["--skip-unreadable"]
    if group_by := settings.get("group_by"):
        told += ["--group-by", group_by]
    for older in settings.get("from", ()):
        told += ["--from", older]
    told += ["--seed", str(study.seed), "--sampler", study.sampler]
    rungs = settings.get("rungs", [])
    told += ["--rungs", ",".join(map(str, rungs)) if rungs else "off"]
    told += ["--objective", ",".join(f"{n}:{direction}" for n, direction in study.objectives)]
    for name, bound in study.constraints.items():
        told += ["--constraint", f"{name}{str(bound).replace(' ', '')}"]
    if evaluator := settings.get("evaluator"):
        told += ["--evaluator", evaluator]
    for file in settings.get("teachers", ()):
        told += ["--teacher", file]
    told += _changed(study.recipe, bool(rungs))
    for name in dict.fromkeys(row.baseline for row in rows if row.baseline and not row.made):
        told += ["--baseline", name]
    return shlex.join(told)


def report_command(study: StudyRow, report: Report | None) -> str:
    """The report as it would be typed."""
    told = ["nas", "report", "--study", study.name]
    told += ["--seeds", str(report.seeds), "--top", str(report.top)] if report else ["--top", "0"]
    return shlex.join([*told, "-o", "report.html"])


def _changed(recipe: Mapping[str, Any], rungs: bool) -> Iterable[str]:
    usual = {name: getattr(Recipe(), name) for name in recipe if hasattr(Recipe(), name)}
    if rungs:
        usual["schedule"] = "rungs"
    for name, value in recipe.items():
        if value != usual.get(name) and name != "teacher":
            yield from ("--recipe", f"{name}={value}")
