"""A record with corrupted values: one sentence as the error, and no change."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import test_cli
from test_cli import nas_here

from nas.job import Latency
from nas.processes import place
from nas.store import open_store
from nas.store.devices import Device, Profiled, add_pack, keep, keep_profile
from nas.store.driver import gone

SEARCH = (
    "search --space lenet_like --evaluator evaluators:ok --epochs 5 --workers 0 --sampler random"
)
GOES_ON = f"{SEARCH} --trials 9 --study lenet_like-digits"
BOARD = Device(device="a board;1 threads", name="board", threads=1, about={"cpu": "a board"})
ON_BOARD = "pareto --objective accuracy:max,latency_ms@board:min"
LOOKS = ("trials ls", "pareto -f json", "report --top 0 -o report.html")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a record with something in each table."""
    folder = tmp_path_factory.mktemp("whole")
    test_cli.nas(folder, *SEARCH.split(), "--trials", "6")
    with contextlib.closing(open_store(f"sqlite:///{folder}/nas.db")) as store:
        [study] = store.studies()
        row = store.trial(study.id, 3)
        timed = Latency(ms=2.0, low=1.0, high=3.0, device=BOARD.device, runtime="onnx")
        keep(store, BOARD, [(row.fingerprint, timed)])
        told = {"pieces": {"a piece": 1.0}, "wholes": {}}
        keep_profile(store, Profiled(device=BOARD, runtime="onnx", batch=1, **told))
        network = {"fingerprint": row.fingerprint, "trial": 3, "file": "f", "sha256": "s"}
        add_pack(store, "pack", study.id, [network])
    return folder / "nas.db"


@pytest.mark.parametrize("form", ["table", "json", "csv"])
@pytest.mark.parametrize(
    ("pattern", "fault"),
    [("garbage $$ (", "column 9: expected"), ("garbage", "it has no INPUT"), ("", "expected")],
)
def test_a_pattern_that_is_none_is_told_where_trials_are_listed(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    fault: str,
    form: str,
) -> None:
    """And nothing is told of the others."""
    shutil.copy(whole, tmp_path)
    with sqlite3.connect(tmp_path / "nas.db") as file:
        file.execute("UPDATE nas_trials SET pattern = ? WHERE number = 3", [pattern])
    file.close()
    _, _, told = nas_here(capsys, monkeypatch, tmp_path, "trials", "ls", "-f", form)
    assert told.startswith("nas: trial 3: its pattern in the record is damaged: ")
    assert fault in told
    assert told.count("\n") == 1


JUNK: list[tuple[str, Any, tuple[str, ...], str]] = [
    # what is no JSON, or JSON of another form, in each of its columns
    ("nas_trials.metrics", '{"accuracy": 0.', (*LOOKS, "trials show 3", "dashboard", GOES_ON),
     "row id 4, column metrics: '{\"accuracy\": 0.', no JSON: must be names with numbers of at"),
    ("nas_trials.metrics", '{"accuracy": NaN}', LOOKS[:1], "no JSON: must be names with numbers"),
    ("nas_trials.metrics", '{"accuracy": "high"}', LOOKS[:1], "must be names with numbers of at"),
    ("nas_trials.metrics", '{"accuracy": 1e999}', LOOKS[:1], "{'accuracy': inf}: must be names"),
    ("nas_trials.metrics", "[" * 99_999, LOOKS[:1], "no JSON: must be names with numbers of at"),
    ("nas_trials.metrics", b"\xff\xfe", LOOKS[:1], "no JSON: must be names with numbers of at"),
    ("nas_trials.metrics", '{"accuracy": 1e308}', LOOKS, "{'accuracy': 1e+308}: must be names"),
    # a percentage is no fraction: it was shown as 500 %
    ("nas_trials.metrics", '{"accuracy": 5}', (*LOOKS, "status", "trials show 3", GOES_ON),
     "column metrics: {'accuracy': 5}: must be names with numbers of at most 1e+30, or null; "
     "accuracy: a fraction from 0 to 1"),
    ("nas_trials.accuracy", 5, (*LOOKS, "status", "trials show 3", GOES_ON),
     "row id 4, column accuracy: 5.0: must be a fraction from 0 to 1, or NULL"),
    ("nas_trials.metrics", "null", LOOKS[:1], "column metrics: None: must be names with numbers"),
    ("nas_trials.sampled", '{"M": 99}', (LOOKS[0], GOES_ON), "column sampled: {'M': 99}: must be"),
    ("nas_trials.distributions", '{"M": "junk"}', (LOOKS[0], GOES_ON),
     "column distributions: 'junk': must be a distribution of M as Optuna writes it"),
    ("nas_trials.recipe", '{"lr": "fast"}', LOOKS[:1], "must be the settings of a recipe"),
    ("nas_trials.recipe", '{"later": 1}', LOOKS[:1], "must be the settings of a recipe"),
    ("nas_trials.rungs", "[[1]]", LOOKS[:1], "[[1]]: must be pairs of epochs, ascending, and"),
    ("nas_trials.state", "stopped", LOOKS, "column rungs: []: must be those that a stopped trial"),
    ("nas_studies.objectives", '[["accuracy", "up"]]', ("status", *LOOKS, GOES_ON),
     'table nas_studies, row id 1, column objectives: [[\'accuracy\', \'up\']]: must be a list'),
    ("nas_studies.constraints", '{"params": "few"}', LOOKS[:1], "names with bounds such as"),
    ("nas_studies.settings", '{"input": [28]}', LOOKS[:1], "must be the settings of a study"),
    ("nas_studies.settings", "{}", ("report",), "column settings: a study's has no split_seed"),
    ("nas_studies.domains", '{"M": 3}', (LOOKS[0], GOES_ON), "column domains: {'M': 3}: must be"),
    ("nas_studies.domains", "{}", LOOKS[:1], "must be names of which the study's domains or the"),
    ("nas_studies.numbers", "many", (GOES_ON,), "column numbers: 'many': must be a whole number"),
    ("nas_studies.numbers", 99, (GOES_ON,), "counts 99 trials, and the record has 6, as where"),
    ("nas_curves.epochs", '[{"epoch": 1}]', ("trials show 3", LOOKS[2]), "must be points of an"),
    ("nas_devices.about", "5", (ON_BOARD,), "column about: 5: must be names with texts"),
    ("nas_packs.networks", "[{}]", ("latency read answers.json",), "must be networks with"),
    ("nas_profiles.profile", '{"pieces": {"a": "1"}}',
     (f"{SEARCH} --objective accuracy:max,latency_ms@board:min --study new",), "pieces and wholes"),
    # other columns
    ("nas_trials.state", "done", (*LOOKS, GOES_ON), "'done': must be one of running, waiting"),
    ("nas_trials.accuracy", "high", LOOKS[:1], "'high': must be a fraction from 0"),
    ("nas_trials.accuracy", 9e999, LOOKS[:1], "column accuracy: inf: must be a fraction"),
    ("nas_trials.params", "many", LOOKS[:1], "'many': must be a whole number from 0"),
    ("nas_trials.created", 1e300, ("trials show 3",), "1e+300: must be seconds since 1970"),
    ("nas_trials.pattern", b"\x00\xff", LOOKS[:1], "column pattern: b'\\x00\\xff': must be text"),
    ("nas_trials.pattern", "INPUT(1, 28, 28) -> MINE -> FC(10)",
     ("export --trial 3", "latency --trials 3"), "trial 3: "),
    ("nas_latencies.ms", "soon", (ON_BOARD,), "column ms: 'soon': must be milliseconds"),
]  # fmt: skip


def rows(folder: Path) -> list[Any]:
    """All that the record holds, read without our code."""
    with contextlib.closing(sqlite3.connect(folder / "nas.db")) as file:
        file.text_factory = bytes
        named = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        tables = [name.decode() for (name,) in file.execute(named)]
        return [file.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


@pytest.mark.parametrize(
    ("column", "junk", "commands", "told"), JUNK, ids=[f"{c}-{str(j)[:20]!r}" for c, j, *_ in JUNK]
)
def test_junk_is_told_by_table_row_column_and_rule_and_nothing_is_written(
    column: str,
    junk: Any,
    commands: tuple[str, ...],
    told: str,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(whole, tmp_path / "nas.db")
    table, _, name = column.partition(".")
    one = " WHERE number = 3" if table == "nas_trials" else ""
    with sqlite3.connect(tmp_path / "nas.db") as file:
        file.execute(f"UPDATE {table} SET {name} = ?{one}", [junk])
    file.close()
    told_by = {"cpu": "a board", "clock": "c", "versions": {"onnxruntime": "1"}, "runtime": "onnx"}
    answers = {"answers": [], "pack": "pack", "device": "board", **told_by}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    before = rows(tmp_path)
    for command in commands:
        status, out, err = nas_here(capsys, monkeypatch, tmp_path, *command.split())
        assert (status, out) == (2, ""), f"{command}: {err}"
        assert told in err
        assert len([line for line in err.splitlines() if not line.startswith("nas: latency")]) == 1
        assert "Traceback" not in err
        assert "Warning" not in err
        assert rows(tmp_path) == before, command


def test_whole_numbers_and_the_names_of_other_columns_are_metrics_too(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an evaluator may give them."""
    shutil.copy(whole, tmp_path / "nas.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "nas.db")) as file:
        told = json.dumps({"accuracy": 1, "seconds": 7, "state": 3})
        file.execute("UPDATE nas_trials SET metrics = ?, accuracy = 1, seconds = 2.5", [told])
        file.commit()
    for command in ("trials ls -f json", "pareto -f json"):
        status, out, err = nas_here(capsys, monkeypatch, tmp_path, *command.split())
        assert status == 0, err
        for row in json.loads(out):
            assert (row["seconds"], row["metrics.seconds"]) == (2.5, 7)
            assert (row["state"], row["metrics.state"]) == ("finished", 3)


def test_a_driver_of_another_form_is_not_taken_for_gone() -> None:
    for name in ("", "a/b/c", f"{place()}/x/1/2", f"{place()}/1"):
        assert not gone(name)


@pytest.mark.parametrize("command", ["status", "pareto", "trials ls", "trials show 0", "export 0"])
def test_a_record_that_is_cut_short_is_told_in_one_sentence(
    command: str,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "nas.db").write_bytes(whole.read_bytes()[:60_000])
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *command.split())
    assert (status, out) == (2, "")
    assert err == "nas: sqlite:///nas.db: database disk image is malformed\n"
