"""The MPS daemon through which seats share a GPU: one for all, stopped with the last.

There is no card here: the control program is a stand-in that starts, answers and ends as NVIDIA's
does. That candidates then run at once, and lose nothing by each other, was seen on a card
(docs/costs.md).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from waiting import eventually

from nas import processes
from nas.job import Failure, Job, Result
from nas.job.pool import Done, Event
from nas.report import doctor
from nas.workers import machine, mps, open_pool
from nas.workers.seat import Seat

PATTERN = "INPUT(1, 8, 8) -> FLATTEN -> FC(10)"
CONTROL = """#!/usr/bin/env python3
import os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
here, log = place / "daemon", place / "log"
try:
    pid = int(here.read_text())
    os.kill(pid, 0)
except (OSError, ValueError):
    pid = 0
if "-f" in sys.argv:
    if pid:
        raise SystemExit("An instance of this daemon is already running")
    log.unlink(missing_ok=True)
    os.mkfifo(log)  # which the servers write into, and which stays
    here.write_text(str(os.getpid()))
    time.sleep(600)
if not pid:
    raise SystemExit("Cannot find MPS control daemon process")
if sys.stdin.read().startswith("quit"):
    os.kill(pid, signal.SIGTERM)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the daemon's files are; the control program is on the path."""
    program = tmp_path / "bin" / mps.CONTROL
    program.parent.mkdir()
    program.write_text(CONTROL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(processes, "own_folder", lambda: tmp_path)
    monkeypatch.setattr(mps, "PROBE", "raise SystemExit(0)")
    return tmp_path / "mps"


def daemon(folder: Path) -> int:
    return int((folder / "daemon").read_text())


def test_seats_share_one_daemon_and_the_last_ends_it(folder: Path) -> None:
    with mps.shared() as first:
        assert first["CUDA_MPS_PIPE_DIRECTORY"] == str(folder)
        pid = daemon(folder)
        with mps.shared() as second:
            assert second == first
            assert daemon(folder) == pid
        time.sleep(3 * mps.LOOK)
        assert processes.started(pid)  # one seat is left
    assert eventually(lambda: not processes.started(pid))
    with mps.shared() as again:
        assert again == first
        assert daemon(folder) != pid


def test_a_look_without_an_answer_ends_no_daemon(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mps.shared() as first:
        pid, answers, looks = daemon(folder), mps._answers, iter([False])
        monkeypatch.setattr(mps, "_answers", lambda told: next(looks, True) and answers(told))
        with mps.shared() as second:
            assert second == first
        time.sleep(5 * mps.LOOK)
        assert processes.started(pid)
        assert daemon(folder) == pid


def test_a_killed_seat_leaves_no_daemon(folder: Path, tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from nas import processes; from nas.workers import mps;"
        f"processes.own_folder = lambda: pathlib.Path({str(tmp_path)!r});"
        "mps.PROBE = 'raise SystemExit(0)'; held = mps.shared(); held.__enter__();"
        "print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as seat:
        assert seat.stdout
        assert seat.stdout.readline() == b"held\n"
        pid = daemon(folder)
        assert processes.started(pid)
        seat.send_signal(signal.SIGKILL)
    assert eventually(lambda: not processes.started(pid))


def test_where_no_card_answers_candidates_take_turns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mps, "PROBE", "raise SystemExit(100)")
    with mps.shared() as environ:
        assert environ == {}
        with mps.shared() as second:
            assert second == {}  # though the daemon answers
    assert "take turns" in caplog.text


def test_what_does_not_start_is_not_tried_for_every_seat(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = folder.parent / "bin" / mps.CONTROL
    control.write_text("#!/bin/sh\necho >> ${0}.told\nexit 1\n")
    monkeypatch.setattr(mps, "ANSWER", 1.0)
    for _ in range(3):
        with mps.shared() as environ:
            assert environ == {}
            told = control.with_name(f"{mps.CONTROL}.told").read_text()
    assert len(told) < 20


def test_a_daemon_of_the_machine_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somewhere")
    with mps.shared() as environ:
        assert environ == {}
    assert not folder.exists()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("CUDA error: the MPS client has been terminated", "worker_died"),
        ("CUDA error: device-side assert triggered", "error"),
    ],
)
def test_what_mps_breaks_is_no_fault_of_the_candidate(
    reason: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "broken_card.py").write_text(
        f"def fails(*told, **more):\n    raise RuntimeError({reason!r})\n"
    )
    seat = Seat(directory=str(tmp_path), path=[str(tmp_path)])
    job = Job(pattern="INPUT(1, 8, 8) -> FLATTEN -> FC(10)", evaluator="broken_card:fails")
    *_, last = seat.run(1, job)
    seat.close()
    assert isinstance(last, Failure)
    assert last.kind == kind
    assert reason in last.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_worker_whose_gpu_does_not_work_does_not_train_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(pattern="INPUT(1, 8, 8) -> FLATTEN -> FC(10)", epochs=1)
    reasons = {}
    for share in (0.5, 1, 0):
        seat = Seat(environ=machine.environ(1, share))
        *_, last = seat.run(1, job)
        seat.close()
        reasons[share] = last.reason if isinstance(last, Failure) else "trained"
    assert reasons.pop(0) == "trained"
    for reason in reasons.values():
        assert "this worker was given a GPU, and torch cannot use CUDA here" in reason
        assert "--gpus-per-trial 0" in reason

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81920\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = next(f for f in doctor._device("") if f.part == "GPU")
    assert not found.works
    assert "1 in this machine, none of which torch" in found.found


@pytest.fixture
def two_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with GPUs of 80 and 24 GiB, by a stand-in for nvidia-smi; MPS is not installed."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81920\necho 24576\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_cards")
def test_the_trials_of_a_machine_take_its_cards_in_turns() -> None:
    with contextlib.closing(open_pool(3)) as pool:
        for ticket in range(3):
            pool.submit(ticket, Job(pattern=PATTERN, evaluator="evaluators:sees_a_card"))
        events: list[Event] = []
        while len(events) < 3:
            events += pool.wait(1.0)
    outcomes = [event.outcome for event in events if isinstance(event, Done)]
    seen = [o.metrics["card"] if isinstance(o, Result) else o.reason for o in outcomes]
    assert sorted(seen) == [0, 0, 1]


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, {"0": 80, "1": 24}),
        ("1", {"1": 24}),
        ("1,0", {"1": 24, "0": 80}),
        ("", {}),
        ("-1", {}),
        ("0,7,1", {"0": 80}),  # CUDA stops at the first that is none
        ("GPU-5a", {"GPU-5a": 24}),  # which one is not known: it has at least this
    ],
)
def test_the_cards_used_are_those_of_cuda_visible_devices(
    told: str | None, found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert machine.visible_cards() == {name: gib << 30 for name, gib in found.items()}


@pytest.mark.parametrize(
    ("cards", "need", "visible", "most"),
    [
        ([80], 0, None, 8),  # as many as gain
        ([80], 19 << 30, None, 4),  # as many as fit
        ([80], 200 << 30, None, 1),
        ([80, 80], 1 << 30, None, 16),
        ([80, 80], 1 << 30, "1", 8),
        ([80], 0, "", 64),  # none that may be seen: one a core
    ],
)
def test_a_card_takes_as_many_as_fit_and_gain(
    cards: list[int], need: int, visible: str | None, most: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo {gib * 1024}\n" for gib in cards))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(machine.processes, "cores", lambda: 64)
    monkeypatch.setattr(machine, "room", lambda: 1 << 50)
    assert machine.at_once(None, need)[0] == most
    assert machine.at_once(3, need)[0] == 3
