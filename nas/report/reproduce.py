"""The commands that reproduce a study and its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.driver.finalists import Report
from nas.errors import SpaceError
from nas.job import Recipe
from nas.spaces.space import load_space, shipped
from nas.spaces.yaml_mapping import parse_mapping
from nas.store import StudyRow, TrialRow


def search_command(study: StudyRow, rows: Sequence[TrialRow]) -> str:
    """The search command. A space that does not ship is taken to be a file of its name; plug-ins
    are missing, as the record does not contain them."""
    settings = study.settings
    same = study.space in shipped() and load_space(study.space).text == study.space_text
    command = ["nas", "search", "--space", study.space if same else f"{study.space}.yaml"]
    command += ["--study", study.name]
    command += [
        "--trials",
        str(sum(row.budgeted for row in rows)),
        "--epochs",
        str(settings["epochs"]),
    ]
    if study.dataset:
        command += ["--dataset", study.dataset]
    if study.directory:
        command += ["--data", study.directory]
        _, height, width = settings["input"]
        if height == width:
            command += ["--size", str(height)]
    if settings.get("skip_unreadable"):
        command += ["--skip-unreadable"]
    if group_by := settings.get("group_by"):
        command += ["--group-by", group_by]
    for older in settings.get("from", ()):
        command += ["--from", older]
    command += ["--seed", str(study.seed), "--sampler", study.sampler]
    rungs = settings.get("rungs", [])
    command += ["--rungs", ",".join(map(str, rungs)) if rungs else "off"]
    command += ["--objective", ",".join(f"{n}:{direction}" for n, direction in study.objectives)]
    for name, bound in study.constraints.items():
        command += ["--constraint", f"{name}{str(bound).replace(' ', '')}"]
    if evaluator := settings.get("evaluator"):
        command += ["--evaluator", evaluator]
    for file in settings.get("teachers", ()):
        command += ["--teacher", file]
    own = _in_space(study.space_text)
    told = {name: value for name, value in study.recipe.items() if name not in own}
    command += _changed(told, bool(rungs))
    for name in dict.fromkeys(row.baseline for row in rows if row.baseline and not row.made):
        command += ["--baseline", name]
    return shlex.join(command)


def report_command(study: StudyRow, report: Report | None) -> str:
    """The report command."""
    command = ["nas", "report", "--study", study.name]
    command += (
        ["--seeds", str(report.seeds), "--top", str(report.top)] if report else ["--top", "0"]
    )
    return shlex.join([*command, "-o", "report.html"])


def _in_space(text: str) -> Mapping[str, Any]:
    try:
        return parse_mapping(text, "the space").get("recipe") or {}
    except SpaceError:  # an invalid space, never searched
        return {}


def _changed(recipe: Mapping[str, Any], rungs: bool) -> Iterable[str]:
    usual = {name: getattr(Recipe(), name) for name in recipe if hasattr(Recipe(), name)}
    if rungs:
        usual["schedule"] = "rungs"
    for name, value in recipe.items():
        if value != usual.get(name) and name != "teacher":
            yield from ("--recipe", f"{name}={value}")
