"""``nas latency``: measured here, packed for elsewhere, read back, and asked for by name."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nas
from nas.cli.app import app
from nas.driver import latencies, packs
from nas.errors import NasError
from nas.job import Latency, Result
from nas.metrics import Direction, Located, check, located, metric
from nas.report import front
from nas.store import Ask, Store, Study, StudyRow
from nas.store.devices import Device, keep, measured

PATTERNS = [f"INPUT -> CONV(width={width}) -> RELU -> GAP -> FC" for width in (4, 256, 2048)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/nas.db"


@pytest.fixture
def study(store: Store) -> StudyRow:
    """Three networks, each better and larger than the one before."""
    goals: tuple[tuple[str, Direction], ...] = (("accuracy", "max"), ("params", "min"))
    row = store.open_study(Study(name="s", space="sp", space_text="", objectives=goals))
    for accuracy, pattern in zip((0.5, 0.7, 0.9), PATTERNS, strict=True):
        a = nas.parse(pattern)
        ask = Ask(pattern=str(a), fingerprint=a.fingerprint, params=a.params, macs=a.macs)
        (claim,) = store.begin(row, [ask])
        store.finish(claim.token, Result(metrics={"accuracy": accuracy}))
    return row


def run(tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    told = [*arguments, "--storage", f"sqlite:///{tmp_path}/nas.db"]
    done = CliRunner().invoke(app, told, catch_exceptions=True)
    if isinstance(done.exception, NasError):
        return 2, done.stdout, str(done.exception)
    assert done.exception is None, done.exception
    return done.exit_code, done.stdout, done.stderr


def packed(store: Store, study: StudyRow, folder: Path) -> Path:
    pytest.importorskip("onnx")
    rows = list(store.trials(study.id))
    packs.pack(store, study, latencies.networks(study, rows, "all"), folder)
    return folder


def timed(folder: Path, device: str = "rpi5") -> Path:
    """The pack's own script, run there as a person runs it."""
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "measure.py", "--device", device, "--batch", "1,8"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "answers.json"


# --- names ---------------------------------------------------------------------------------------


def test_a_metric_on_a_device_is_read_from_its_name_in_any_order() -> None:
    assert located("latency_ms") is None
    assert located("latency_ms@rpi5") == Located("latency_ms", "rpi5")
    full = Located("latency_ms", "rpi5", "onnx", 4, 64)
    assert located("latency_ms@rpi5/b64/onnx/t4") == full
    assert located(str(full)) == full
    assert located("hit@10") is None  # an evaluator's own
    for name in ("accuracy@rpi5", "latenzy_ms@rpi5"):
        with pytest.raises(NasError, match="there is no such metric; did you mean"):
            check([name], "objective")
    assert metric("latency_ms@rpi5").direction == "min"
    assert metric("latency_ms@rpi5").logarithmic


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("latency_ms@", "not a device name"),
        ("latency_ms@a b", "not a device name"),
        ("latency_ms@rpi5/t0", "after the device"),
        ("latency_ms@rpi5/t1/t2", "after the device"),
        ("latency_ms@rpi5/", "after the device"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, told: str) -> None:
    with pytest.raises(NasError, match=told):
        located(name)


# --- measured here -------------------------------------------------------------------------------


def test_the_front_is_measured_here_once(tmp_path: Path, store: Store, study: StudyRow) -> None:
    status, shown, _ = run(tmp_path, "latency", "--name", "laptop")
    assert status == 0
    assert len(shown.splitlines()) == 4
    found = {row.fingerprint: row for row in measured(store)}
    assert found.keys() == {nas.parse(pattern).fingerprint for pattern in PATTERNS}
    assert {(r.name, r.threads, r.latency.runtime) for r in found.values()} == {
        ("laptop", 1, "eager")
    }
    _, shown, _ = run(tmp_path, "latency", "--name", "laptop")
    assert shown.count("known") == 3
    assert {r.fingerprint: r for r in measured(store)} == found
    run(tmp_path, "latency", "--name", "laptop", "--trials", "0", "--again")
    changed = [r for r in measured(store) if r != found[r.fingerprint]]
    assert [row.fingerprint for row in changed] == [nas.parse(PATTERNS[0]).fingerprint]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trials", "9"], "--trials 9: the study has no trial 9"),
        (["--trials", "some"], "--trials some: must be front, all or numbers"),
        (["--runtime", "onyx"], "unknown runtime onyx; did you mean onnx"),
        (["--name", "here"], "--name here: a device's name has"),
        (["--name", "my laptop"], "--name my laptop: a device's name has"),
        (["--threads", "999"], "999 threads: this machine has"),
        (["--study", "t"], "there is no study 't'"),
    ],
)
def test_what_cannot_be_measured_is_told(
    tmp_path: Path, study: StudyRow, options: list[str], told: str
) -> None:
    status, shown, error = run(tmp_path, "latency", *options)
    assert (status, shown) == (2, "")
    assert told in error


# --- a pack --------------------------------------------------------------------------------------


def test_a_pack_is_timed_and_read_and_its_front_is_drawn(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    folder = packed(store, study, tmp_path / "pack")
    # More channels take longer, by far, but for what the machine does beside.
    for _ in range(10):
        answers = timed(folder)
        taken = [a["ms"] for a in json.loads(answers.read_bytes())["answers"] if a["batch"] == 1]
        if taken == sorted(taken):
            break
    status, _, told = run(tmp_path, "latency", "read", str(answers))
    assert (status, "6 latencies of 3 networks on rpi5" in told) == (0, True)
    _, shown, told = run(tmp_path, "pareto", "--objective", "accuracy:max,latency_ms@rpi5:min",
                         "-f", "json")  # fmt: skip
    rows = {row["trial"]: row for row in json.loads(shown)}
    assert rows[0]["latency_ms@rpi5"] < rows[2]["latency_ms@rpi5"]
    assert "3 of 3 trials" in told
    limit = (rows[0]["latency_ms@rpi5"] + rows[2]["latency_ms@rpi5"]) / 2
    _, shown, _ = run(tmp_path, "pareto", "--constraint", f"latency_ms@rpi5<={limit}", "-f", "json")
    assert {0} <= {row["trial"] for row in json.loads(shown)} < {0, 1, 2}
    run(tmp_path, "latency", "--name", "laptop")
    both = "accuracy:max,latency_ms@rpi5:min,latency_ms@laptop:min"
    _, drawn, _ = run(tmp_path, "pareto", "--objective", both, "-f", "svg")
    lines = [e.get("class") for e in ET.fromstring(drawn).iter() if e.tag.endswith("polyline")]
    assert [name for name in lines if name != "s-grid"] == ["s-front", "s-beside"]
    assert ">rpi5<" in drawn
    assert ">laptop<" in drawn


def test_of_two_devices_that_are_nearly_alike_neither_covers_the_other(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    for name, slower in {"one": 1.0, "other": 1.01}.items():
        device = Device(device=f"{name}, 1 thread, x", name=name, threads=1)
        found = [
            (row.fingerprint, Latency(ms=ms * slower, low=0.1, high=99, device=device.device))
            for row, ms in zip(store.trials(study.id), (1.0, 1.1, 4.0), strict=True)
        ]
        keep(store, device, found)
    both = "accuracy:max,latency_ms@one:min,latency_ms@other:min"
    _, drawn, _ = run(tmp_path, "pareto", "--objective", both, "-f", "svg")
    shapes = [*ET.fromstring(drawn).iter()]
    dots = [each for each in shapes if each.tag.endswith("circle") and len(each)]
    assert len(dots) == 6
    places = [tuple(float(each.get(key, "")) for key in ("cx", "cy", "r")) for each in dots]
    for (x, y, r), (u, v, s) in zip(places[:3], places[3:], strict=True):
        assert abs(x - u) < 5  # they are alike
        assert y == v
        assert s < r  # so the one below is seen
    boxes = [
        (x, y - 9, x + front.LETTER * len(told), y + 2)
        for each in shapes
        if (told := each.text or "") in ("0", "1", "2") and each.get("font-size") == "11"
        for x, y in [(float(each.get("x", "")), float(each.get("y", "")))]
    ]
    assert len(boxes) == 6
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart
    for left, top, right, bottom in boxes:
        assert not any(left < x < right and top < y < bottom for x, y, _ in places)


def test_a_trial_without_a_number_is_on_no_front_and_counted(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    fingerprint = nas.parse(PATTERNS[0]).fingerprint
    device = Device(device="pi, 1 thread, x", name="pi", threads=1)
    keep(store, device, [(fingerprint, Latency(ms=1, low=1, high=1, device=device.device))])
    _, shown, told = run(tmp_path, "pareto", "--objective", "accuracy:max,latency_ms@pi:min",
                         "-f", "json")  # fmt: skip
    assert [row["trial"] for row in json.loads(shown)] == [0]
    assert "latency_ms@pi: 1 of 3 trials" in told


def test_a_batch_measured_here_is_no_latency_that_a_search_may_take_over(
    store: Store, study: StudyRow
) -> None:
    fingerprint, where = nas.parse(PATTERNS[0]).fingerprint, "cpu, 1 thread, torch"
    keep(store, None, [(fingerprint, Latency(ms=8, low=8, high=8, device=where, batch=64))])
    assert store.measured(fingerprint) == {}
    keep(store, None, [(fingerprint, Latency(ms=1, low=1, high=1, device=where))])
    assert store.measured(fingerprint)[where].ms == 1


def test_a_device_that_is_mistyped_or_of_several_settings_is_refused(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    fingerprint = nas.parse(PATTERNS[0]).fingerprint
    for threads in (1, 4):
        device = Device(device=f"pi, {threads} x", name="rpi5", threads=threads)
        found = Latency(ms=4 / threads, low=1, high=9, device=device.device, runtime="onnx")
        keep(store, device, [(fingerprint, found)])
    asked = "accuracy:max,latency_ms@{}:min"
    for name, why in {
        "rip5": "there is no device rip5; did you mean rpi5?",
        "rpi5": "several; name one: latency_ms@rpi5/onnx/t1 or latency_ms@rpi5/onnx/t4",
        "rpi5/eager": "no such latency of these trials was measured; it has onnx/t1/b1, onnx/t4/b1",
        "rpi5/b8": "no such latency",
    }.items():
        status, shown, told = run(tmp_path, "pareto", "--objective", asked.format(name))
        assert (status, shown) == (2, "")
        assert why in told
    _, shown, _ = run(tmp_path, "pareto", "--objective", asked.format("rpi5/t4"), "-f", "json")
    assert json.loads(shown)[0]["latency_ms@rpi5/t4"] == 1


def test_a_device_without_a_runtime_is_as_the_study_was_searched(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    """One name with latencies in two runtimes, of a study whose search measured in the one."""
    pattern = "INPUT(3, 8, 8) -> GAP -> FC(2)"
    a = nas.parse(pattern)
    (claim,) = store.begin(
        study, [Ask(pattern=str(a), fingerprint=a.fingerprint, params=a.params, macs=a.macs)]
    )
    eager = Latency(ms=3, low=3, high=3, device="pc, 1 thread, torch")
    store.finish(claim.token, Result(metrics={"accuracy": 0.99}, latency=eager))
    keep(store, Device(device=eager.device, name="pc", threads=1), [])
    onnx = Latency(ms=1, low=1, high=1, device="pc, 1 thread, ort", runtime="onnx")
    keep(store, Device(device=onnx.device, name="pc", threads=1), [(a.fingerprint, onnx)])
    for name, ms in {"pc": 3, "pc/eager": 3, "pc/onnx": 1}.items():
        asked = f"accuracy:max,latency_ms@{name}:min"
        status, shown, told = run(tmp_path, "pareto", "--objective", asked, "-f", "json")
        assert (status, json.loads(shown)[0][f"latency_ms@{name}"]) == (0, ms)
        # What was left open is told, with the other's name.
        assert ("as latency_ms@pc/eager/t1, as the study was searched" in told) == (name == "pc")
        assert ("not latency_ms@pc/onnx/t1" in told) == (name == "pc")


def test_answers_that_do_not_belong_are_refused_and_nothing_is_kept(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    folder = packed(store, study, tmp_path / "pack")
    good = json.loads(timed(folder).read_text())
    first, times = good["answers"][0], ("ms", "low", "high", "reference")
    for change, why in [
        ({"pack": "0" * 16}, "pack is 0000000000000000: must be one that `nas latency pack`"),
        ({"device": "here"}, "device here: a device's name has"),
        ({"device": "a/b"}, "device a/b: a device's name has"),
        ({"answers": [first | {"fingerprint": "f" * 16}]}, "answers[0].fingerprint is "),
        ({"answers": [first | {"sha256": "0" * 64}]}, "trial-0.onnx was changed"),
        *[
            (
                {"answers": [first, first | {name: value}]},
                f"answers.json: answers[1].{name} is {json.dumps(value)[:20]}",
            )
            for name, values in {
                "reference": [-5, 0, float("inf"), "1", None],
                "ms": [-1, 0, float("nan"), "1", 10**400, True, None, [1], first["high"] * 2],
                "low": ["1", float("inf")],
                "high": [-1],
                "busy": [2, -1, "0", float("nan")],
                "peak_bytes": [-1, 1.5, "3", 2**63, 10**400],
                "threads": [10**400, 0, "1", True],
                "batch": [1.0, 10**400],
                "fingerprint": [None, 3],
            }.items()
            for value in values
        ],
        *[
            ({"answers": [{k: v for k, v in first.items() if k != name}]}, f"{name} is missing: ")
            for name in [*times, "threads", "batch", "fingerprint", "sha256"]
        ],
        ({"answers": [first, first | {"ms": first["high"]}]}, "has two answers of 1 thread"),
        *[
            ({name: value}, f"answers.json: {name} is {json.dumps(value)}: must be text of one")
            for name in ("device", "cpu", "clock", "pack")
            for value in ("", None, 3, "a\nb")
        ],
        *[
            ({"runtime": value}, f"answers.json: runtime is {json.dumps(value)}: must be ")
            for value in ("eager", "ONNX", "", None, 3)
        ],
        ({"versions": 3}, "versions is 3: must be an object"),
        ({"versions": {}}, "versions.onnxruntime is missing: must be text"),
        ({"answers": [first | {"high": first["low"] / 2}]}, "answers[0].ms is "),
        ({"answers": []}, "has no answers"),
        ({"answers": [3]}, "answers[0] is 3: must be an object"),
        *[({"answers": each}, "must be a list of answers") for each in (3, first, None, "a")],
    ]:
        (tmp_path / "answers.json").write_text(json.dumps(good | change))
        status, _, told = run(tmp_path, "latency", "read", str(tmp_path / "answers.json"))
        assert (status, why in told) == (2, True), told
    for text, why in {
        b"": "is no JSON from line 1, column 1 on",
        b"hello": "is no JSON from line 1, column 1 on",
        b"[]": "holds []",
        b"3": "holds 3",
        b"null": "holds null",
        b"\xff": "is no text in UTF-8 from byte 0 on",
        b"{}": "answers is missing: must be a list of answers",
        b"[" * 100_000: "is too deep",
        b"1" * 10_000: "has too many digits",
        b'{"a": [{"ms": 1, "b": 2, "ms": 3}]}': 'has two values of "ms" in one object: must be ',
    }.items():
        (tmp_path / "answers.json").write_bytes(text)
        status, _, told = run(tmp_path, "latency", "read", str(tmp_path / "answers.json"))
        place = ": " * why.startswith("answers")
        assert (status, f"answers.json{place}" in told, why in told) == (2, True, True), told
    other = run(tmp_path, "latency", "read", str(folder / "answers.json"), "--study", "t")
    assert (other[0], "there is no study 't'" in other[2]) == (2, True)
    store.open_study(Study(name="other", space="sp", space_text="", objectives=study.objectives))
    _, _, told = run(tmp_path, "latency", "read", str(folder / "answers.json"), "--study", "other")
    assert re.search(r"--study other: pack [0-9a-f]{16} of .* is of study s$", told)
    assert run(tmp_path, "latency", "read", str(tmp_path / "none.json"))[0] == 2
    assert measured(store) == []
    # The name of another machine.
    keep(store, Device(device="x", name="rpi5", threads=1, about={"cpu": "Cortex"}), [])
    status, _, told = run(tmp_path, "latency", "read", str(folder / "answers.json"))
    assert (status, "device rpi5 is a machine with Cortex" in told) == (2, True)
    assert measured(store) == []


def test_a_pack_whose_files_were_changed_is_not_timed(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    pytest.importorskip("onnxruntime")
    folder = packed(store, study, tmp_path / "pack")
    shutil.copy(folder / "trial-1.onnx", folder / "trial-0.onnx")
    command = [sys.executable, "measure.py", "--device", "rpi5"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode
    assert "trial-0.onnx is not as it was packed" in done.stderr
    assert "Traceback" not in done.stderr
    # With the manifest changed as well it is timed, and then refused.
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "trial-0.onnx").read_bytes()
    manifest["networks"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, _, told = run(tmp_path, "latency", "read", str(timed(folder)))
    assert (status, "trial-0.onnx was changed after it was packed" in told) == (2, True)


def test_the_script_of_a_pack_imports_nothing_of_ours(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    folder = packed(store, study, tmp_path / "pack")
    code = (
        "import sys; sys.path.insert(0, '.'); import measure, onnxruntime; "
        "print(*({'nas', 'torch', 'onnx', 'optuna', 'sqlalchemy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert told.stdout.split() == []


def test_a_pack_goes_into_a_directory_of_its_own(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine.txt").write_text("mine")
    status, _, told = run(tmp_path, "latency", "pack", "-o", str(tmp_path / "pack"))
    assert (status, "must be a new or an empty directory" in told) == (2, True)
    assert [path.name for path in (tmp_path / "pack").iterdir()] == ["mine.txt"]


def test_what_was_not_measured_names_the_next_step(
    tmp_path: Path, store: Store, study: StudyRow
) -> None:
    """A device that has a name, by a profile, and no number of the study's networks."""
    cpu = latencies.timing.cpu_name()
    for name, about in {"mine": {"cpu": cpu}, "pi": {"cpu": "another"}}.items():
        device = Device(device=f"{name}, 1 thread, torch", name=name, threads=1, about=about)
        keep(store, device, [])
    for named, step in {
        "mine": "`nas latency --name mine` measures the front here",
        "mine/onnx/t2/b8": "`nas latency --name mine --runtime onnx --threads 2 --batch 8`",
        "here/eager": "`nas latency --runtime eager` measures the front here",
        "pi": "`nas latency pack` makes what measures them on pi",
    }.items():
        asked = ["--objective", f"accuracy:max,latency_ms@{named}:min"]
        status, _, told = run(tmp_path, "pareto", "--study", "s", *asked)
        assert status == 2
        assert "no such latency of these trials was measured" in told
        assert step in told
