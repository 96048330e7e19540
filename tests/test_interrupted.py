"""Ctrl-C and SIGTERM end any command alike: exit status 130, no traceback, no half of a file, no
process left; what says that it resumes does."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from test_cli import MARK, Here, environment, here, left_over
from typed import command
from waiting import PATIENCE, eventually

from nas.interrupts import heard_during

__all__ = ["here"]  # a fixture

PRUNE = ("prune", "0", "--epochs", "20", "--seeds", "1", "-o", "pruned")
REPORT = ("report", "--top", "1", "--seeds", "100", "-o", "page.html")  # long enough to interrupt
PROFILE = ("latency", "profile", "--space", "lenet_like", "--networks", "2")

# The n-th file that a command writes is interrupted when half of it is there.
AMID_A_FILE = """
import os, signal, sys
number, nth = map(int, sys.argv[1:3])
del sys.argv[1:3]
from pathlib import Path
import nas.artifacts as artifacts
from nas.cli import main

def half(part, data, whole=artifacts._write):
    global nth
    nth -= 1
    if nth:
        return whole(part, data)
    part.write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), number)

artifacts._write = half
main()
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the record of a study of digits, with the weights of three networks."""
    folder = tmp_path_factory.mktemp("record")
    told = ("--trials", "3", "--epochs", "1", "--workers", "0", "--keep", "all")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("NAS_STORAGE", "OPTUNA_STORAGE"):
            patch.delenv(name, raising=False)
        assert command("search", "--space", "lenet_like", *told) == 0
    return folder


def start(folder: Path, mark: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment(folder, **{MARK: mark}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str], mark: str) -> str:
    """Its last line, of a command that an interrupt has ended."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert eventually(lambda: not left_over(mark))
    return err.splitlines()[-1]


def weights(record: Path) -> list[str]:
    return [str(path) for path in sorted(record.glob("artifacts/*/trial-*.safetensors"))]


@pytest.mark.parametrize(
    ("number", "nth", "command"),
    [
        (signal.SIGTERM, 2, ("export", "--trial", "0", "-o", "out/model.py")),
        (signal.SIGINT, 1, ("pareto", "-f", "svg", "-o", "out/front.svg")),
        (signal.SIGTERM, 1, ("report", "--top", "0", "-o", "out/page.html")),
        (signal.SIGTERM, 2, ("latency", "pack", "--trials", "all", "-o", "out")),
    ],
)
@pytest.mark.slow
def test_no_half_of_a_file_is_left(
    here: Here, record: Path, number: int, nth: int, command: tuple[str, ...]
) -> None:
    out, mark = record / "out", uuid.uuid4().hex
    process = start(record, mark, "-c", AMID_A_FILE, int(number), nth, *command)
    assert ended(process, mark).startswith("nas: interrupted")
    assert list(out.rglob("*")) == []
    here(record, *command)  # nothing is in the way of the same command
    assert list(out.rglob("*")) != []
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("number", "at", "command"),
    [
        (signal.SIGTERM, "epoch 2 of 20", PRUNE),
        (signal.SIGTERM, "trainings at most", REPORT),
        (signal.SIGINT, "pieces measured", PROFILE),
    ],
)
def test_interrupted_in_long_work_it_says_how_to_go_on(
    record: Path, number: int, at: str, command: tuple[str, ...]
) -> None:
    mark = uuid.uuid4().hex
    process = start(record, mark, "-m", "nas.cli", *command)
    assert process.stderr
    assert any(at in line for line in process.stderr)
    process.send_signal(number)
    assert ended(process, mark) == "nas: interrupted; the same command resumes"


@pytest.mark.parametrize(
    ("number", "library"),
    [(signal.SIGTERM, "_multiarray_umath"), (signal.SIGTERM, "libtorch_cpu"),
     (signal.SIGINT, "libtorch_cpu")],
)  # fmt: skip
def test_interrupted_while_libraries_load_it_shows_no_traceback(
    record: Path, number: int, library: str
) -> None:
    mark = uuid.uuid4().hex
    process = start(record, mark, "-m", "nas.cli", "cascade", *weights(record))
    assert eventually(lambda: library in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(number)
    assert ended(process, mark) == "nas: interrupted"


EARLY = """
import os, sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == sys.argv[2]:
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Interrupts())
from nas.cli import main
"""


@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("module", ["nas.cli.app", "typer", "nas.text"])
def test_interrupted_amid_the_imports_of_the_command_line_it_ends_alike(
    number: int, module: str
) -> None:
    told = [sys.executable, "-c", EARLY, str(number), module]
    ended = subprocess.run(told, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "nas: interrupted\n")


ODD = """
import gc, os, signal, time
from nas.interrupts import ended_alike

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

with ended_alike() as heard:
    try:
        exec("os.kill(os.getpid(), signal.SIGINT)")
    except KeyboardInterrupt:
        print(*heard)
    try:
        Last()
        time.sleep(60)
    except KeyboardInterrupt:
        print(*heard)
"""


def test_no_interrupt_is_lost_and_python_ends_by_none_that_was_handled(tmp_path: Path) -> None:
    process = start(tmp_path, "", "-c", ODD)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "2\n2 15 15\n", "")


def test_an_interrupt_is_heard_while_compiled_code_works() -> None:
    over, main = threading.Event(), threading.main_thread().ident or 0

    def work() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        over.wait(PATIENCE)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            heard_during(work)
        assert not over.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
    assert heard_during(lambda: 3) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        heard_during(lambda: int("three"))
