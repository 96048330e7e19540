"""A distilled or pruned network is a point of its study, but not a trial of the search."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from folders import folder
from typed import command

from nas.cli.record import data_of
from nas.driver.finalists import report
from nas.driver.tradeoffs import pareto
from nas.report import front, html, reproduce
from nas.store import StudyRow, TrialRow, open_store
from nas.store.teachers import teacher_of

STUDENT = "INPUT -> CONV(4) -> BN -> RELU -> POOL -> CONV(6) -> BN -> RELU -> GAP -> FC"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A search of two trials whose weights are kept, to be gone on with."""
    url = f"sqlite:///{tmp_path_factory.mktemp('made')}/nas.db"
    line = ["search", "--space", "lenet_like", "--epochs", "2", "--workers", "0", "--storage", url,
            "--keep", "all", "--objective", "accuracy,params"]  # fmt: skip
    assert command(*line, "--trials", 2) == 0
    return line


def record(line: list[str]) -> tuple[StudyRow, list[TrialRow]]:
    store = open_store(line[line.index("--storage") + 1])
    (study,) = store.studies()
    return study, list(store.trials(study.id))


@pytest.mark.slow
def test_distilled_and_pruned_networks_become_trials_of_the_study(
    line: list[str], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--storage", line[line.index("--storage") + 1], "--seeds", 1]
    distill = ["distill", *where, "--teacher", "front", "--student", STUDENT, "-o", tmp_path / "d"]
    prune = ["prune", "0", *where, "--epochs", 1, "-o", tmp_path / "p"]
    assert command(*distill) == 0
    told = capsys.readouterr().err
    assert "trial 2, " in told
    assert re.search(r"2 trainings, 4 epochs in all, about .* judging by the study's trials", told)
    assert command(*prune) == 0
    told = capsys.readouterr().err
    study, rows = record(line)
    taught, pruned = rows[2:]
    assert taught.baseline == f"{taught.fingerprint[:6]} distilled"
    assert [row.baseline for row in rows] == ["", "", taught.baseline, "trial 0 pruned"]
    assert taught.epochs == 2, "as many as the study's, unless told"
    assert taught.recipe["teacher"]
    assert pruned.params < rows[0].params
    for row in (taught, pruned):
        assert row.state == "finished"
        assert Path(row.model).is_file()
        assert row.latency_ms
    better = any(
        row.accuracy >= pruned.accuracy and row.params <= pruned.params for row in rows[:3]
    )
    assert ("trial 3, not on the front" in told) == better

    capsys.readouterr()
    assert command("pareto", *where[:2], "-f", "json") == 0
    shown = {trial["trial"] for trial in json.loads(capsys.readouterr().out)}
    assert (3 in shown) != better
    # The control is no trial: what it gained over it is told wherever the trial is.
    verdicts = study.settings["verdicts"]
    assert verdicts.keys() == {"2", "3"}
    for row in (taught, pruned):
        said = f"{row.called} beside its control, on validation: {verdicts[str(row.number)]}"
        assert command("trials", "show", row.number, *where[:2]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
        assert command("trials", "ls", *where[:2], "-f", "csv") == 0
        assert f"nas: {said}" in capsys.readouterr().err
        assert said in html.page(study, rows, {})
        lines = ElementTree.fromstring(front.svg(study, rows)).iter()
        assert said in " ".join(" ".join(line.text or "" for line in lines).split())
    drawn = front.svg(study, rows)
    assert "distilled or pruned" in drawn
    assert "3: trial 0 pruned" in drawn
    assert "baseline" not in reproduce.search_command(study, rows)
    # Its teachers are told as a person finds them, in each way.
    teachers = [f"trial {row.number} of study {study.name}" for row in pareto(study, rows[:2])]
    assert command("trials", "ls", *where[:2], "-f", "json") == 0
    told = [trial["teacher"] for trial in json.loads(capsys.readouterr().out)]
    assert told == [None, None, ", ".join(teachers), None]
    assert command("trials", "ls", *where[:2]) == 0
    assert f"taught by {', '.join(teachers)}: 2\n" in capsys.readouterr().out
    assert f"<dd>{', '.join(teachers)}: trial 2</dd>" in html.page(study, rows, {})

    # The same command goes on, to the same, and the search with the trials that it still may have.
    assert command(*distill) == 0
    assert "trial 2, " in capsys.readouterr().err
    # Wherever it writes to: and where its file was removed, the new one is the trial's.
    assert command(*prune[:-1], tmp_path / "q") == 0
    assert "trial 3, " in capsys.readouterr().err
    Path(taught.model).unlink()
    capsys.readouterr()
    why = f"trial 2 ({taught.baseline}) of study {study.name}"
    assert command("export", 2, *where[:2], "-f", "onnx", "-o", tmp_path / "m.onnx") == 2
    told = capsys.readouterr().err
    assert (
        f"{taught.model}, which held the weights of {why}, is gone: restore it, or repeat the"
        in told
    )
    assert "repeat the `nas distill` that made it" in told
    monkeypatch.setenv("NAS_STORAGE", where[1])
    for asked in (["predict", taught.model, tmp_path], ["evaluate", taught.model]):
        assert command(*asked) == 2
        told = capsys.readouterr().err
        assert f"{taught.model}: No such file or directory: must be a model; it held the" in told
        assert f"weights of {why}: repeat the `nas distill` that made it" in told
    assert command(*distill[:-1], tmp_path / "e") == 0
    assert "trial 2, " in capsys.readouterr().err
    _, (_, _, taught, pruned) = record(line)
    assert Path(taught.model).parent == tmp_path / "e"
    assert Path(pruned.model).parent == tmp_path / "p"
    capsys.readouterr()
    assert command(*line, "--trials", 3) == 0
    told = capsys.readouterr()
    assert "0 failed, 1 distilled, 1 pruned\n" in told.err
    assert "baseline" not in told.err + told.out
    _, rows = record(line)
    assert [row.made for row in rows] == ["", "", "distilled", "pruned", ""]
    assert command("trials", "ls", "--state", "refused", *where[:2]) == 0
    assert f"no trial of study {study.name} is refused" in capsys.readouterr().err
    assert command("train", "--trial", 2, *where[:2]) == 2
    assert "was made by `nas distill` or `nas prune`" in capsys.readouterr().err
    # Its file is its maker's: a search that keeps the weights of the front alone leaves it.
    assert command(*line[:-4], "--keep", "front", *line[-2:], "--trials", 4) == 0
    assert Path(taught.model).is_file()
    assert Path(pruned.model).is_file()
    study, rows = record(line)
    front_of = {row.number for row in pareto(study, [row for row in rows if not row.made])}
    for row in rows:
        if not row.made:
            assert bool(row.model) == (row.number in front_of), "made from it, it is needed again"
    found = report(study, rows, data_of(study, ""), seeds=1, top=1)
    assert found.beside == ()
    assert command("cascade", *where[:2], "-o", tmp_path / "c.json") in (0, 3)
    assert f"trial 2 ({taught.baseline})" in capsys.readouterr().out
    # The same student of another teacher is another network, by a name of its own.
    told = ["--teacher", taught.model, "--student", STUDENT, "--epochs", 1, "-o", tmp_path / "f"]
    for _ in range(2):
        assert command("distill", *where, "--study", study.name, *told) == 0
    study, (*before, last) = record(line)
    assert [row.baseline for row in before if row.made] == [taught.baseline, pruned.baseline]
    assert last.baseline == f"{taught.fingerprint[:6]} (2) distilled"
    assert teacher_of(study, last) == f"trial 2 of study {study.name}"


def test_a_model_of_other_images_is_no_point(line: list[str], tmp_path: Path, capsys) -> None:
    pictures = folder(tmp_path / "pictures")
    file = tmp_path / "model.safetensors"
    at = ["--data", pictures]
    assert command("train", STUDENT, *at, "--size", 8, "--epochs", 1, "-o", file) == 0
    where = ["--storage", line[line.index("--storage") + 1], "--study", record(line)[0].name]
    capsys.readouterr()
    assert command("prune", file, *at, *where, "-o", tmp_path / "p") == 2
    assert "and now they are others" in capsys.readouterr().err
    assert not list((tmp_path / "p").glob("*"))
    assert sum(bool(row.made) for row in record(line)[1]) <= 3
