"""The command line, run as a user runs it: its output, exit status and files."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import test_search
from folders import folder
from sqlalchemy import text
from typed import ran
from waiting import PATIENCE, eventually

from nas.driver.loop import search
from nas.processes import descendants
from nas.store import open_store
from nas.workers.in_process import InProcess

TESTS = Path(__file__).parent
MARK = "NAS_TEST_MARK"  # in the environment of a search and so of all that it starts
ALONE = ("--workers", "0")
STUB = ("--evaluator", "test_search:slow", "--sampler", "random")


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NAS_STORAGE", "OPTUNA_STORAGE")}
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    told = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", test_search.LOG: str(folder / ".evaluated")}
    return kept | told | more


def nas(
    folder: Path, *arguments: str, status: int = 0, **more: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``nas`` in a process of its own, in ``folder``."""
    ended = subprocess.run(
        [sys.executable, "-m", "nas.cli", *arguments],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def nas_here(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *arguments: str,
    **more: str,
) -> tuple[int, str, str]:
    """The same in this process, which is quicker: status, stdout, stderr."""
    monkeypatch.chdir(folder)
    for name in ("NAS_STORAGE", "OPTUNA_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    return ran(capsys, *arguments)


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """As ``nas``, but in this process: one of its own is 2 s of imports. For what is about neither
    the start nor the end of a process."""

    def call(
        folder: Path, *arguments: str, status: int = 0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        told = {test_search.LOG: str(folder / ".evaluated")} | more
        with pytest.MonkeyPatch.context() as patch:
            ended, out, err = nas_here(capsys, patch, folder, *arguments, **told)
        assert ended == status, err
        return subprocess.CompletedProcess(arguments, ended, out, err)

    return call


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """What the record's table of trials holds, read without our code."""
    with sqlite3.connect(folder / "nas.db") as connection:
        return list(connection.execute("select * from nas_trials order by id"))


# --- a search ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_trains_on_digits_and_the_same_command_does_nothing_more(
    here: Here,
    tmp_path: Path,
) -> None:
    told = ("search", "--space", "lenet_like", "--trials", "3", "--epochs", "2", "--workers", "0")
    first = nas(tmp_path, *told)
    found = trials(tmp_path)
    assert len(found) == 3
    front = json.loads(here(tmp_path, "pareto", "-f", "json").stdout)
    assert all(0.1 < row["accuracy"] <= 1 and row["latency_ms"] > 0 for row in front)
    # stdout is the front, a line a network without trailing blanks; all else is on stderr.
    *lines, note = first.stdout.splitlines()
    assert note.endswith("without it needs 7 more finished trials")
    assert len(lines) == 1 + len(front)
    assert lines == [line.rstrip() for line in lines]
    assert lines[0].split() == ["trial", "accuracy", "params", "MACs", "latency", "pattern"]
    assert [int(line.split()[0]) for line in lines[1:]] == [row["trial"] for row in front]
    assert "nas: study lenet_like-digits: 3 evaluated, 0 reused, 0 failed" in first.stderr
    assert "nas export --trial " in first.stderr

    again = here(tmp_path, *told)
    assert again.stdout == first.stdout
    assert trials(tmp_path) == found
    # Another study takes over the results, with the latencies, though none of its objectives.
    again = here(tmp_path, *told, "--study", "again").stderr
    assert "nas: study again: 0 evaluated, 3 reused" in again
    listed = [json.loads(here(tmp_path, "trials", "ls", "--study", name, "-f", "json").stdout)
              for name in ("lenet_like-digits", "again")]  # fmt: skip
    ones, others = ({row["pattern"]: row["latency_ms"] for row in rows} for rows in listed)
    assert ones == others


def test_an_evaluator_s_study_says_what_works_with_it(here: Here, tmp_path: Path) -> None:
    """It has no weights of ours, but networks, and metrics that no objective is about."""
    (tmp_path / "joules.py").write_text(
        "def table(network, **_):\n    return {'accuracy': 0.5, 'joules': 2.0}\n"
    )
    told = ("--space", "lenet_like", "--trials", "2", "--workers", "0", "--sampler", "random")
    ended = here(tmp_path, "search", *told, "--evaluator", "joules:table")
    [advice] = [line for line in ended.stderr.splitlines() if line.startswith("  nas export")]
    here(tmp_path, *shlex.split(advice)[1:])
    assert "nn.Linear" in (tmp_path / "network.py").read_text()
    number = shlex.split(advice)[3]
    lacking = here(tmp_path, "export", "--trial", number, "-f", "onnx", status=2).stderr
    assert "joules:table keeps its own; `nas export --trial" in lacking
    by = here(tmp_path, "pareto", "--objective", "joules:min", "--constraint", "joules<=3")
    assert "joules" in by.stdout.splitlines()[0]
    wrong = here(tmp_path, "pareto", "--constraint", "energy<=1", status=2).stderr
    assert "energy: there is no such metric; known: accuracy, balanced_accuracy, joules" in wrong


def test_where_an_evaluator_scores_nothing_is_told_of_images(here: Here, tmp_path: Path) -> None:
    """nas takes the networks' input from its digits, and knows no images that they were scored on:
    ten results, as of fewer nothing is estimated."""
    told = ("search", "--space", "lenet_like", "--study", "mine", "--trials", "10", *STUB)
    told += ("--workers", "0")
    page, picture = tmp_path / "report.html", tmp_path / "front.svg"
    texts = [
        here(tmp_path, *told, "--dry-run").stdout,
        *(lambda ended: (ended.stdout, ended.stderr))(here(tmp_path, *told)),
        *(
            here(tmp_path, *command).stdout
            for command in (("status",), ("pareto",), ("pareto", "--believed"),
                            ("trials", "ls"), ("trials", "show", "0"))
        ),
    ]  # fmt: skip
    here(tmp_path, "report", "--top", "0", "-o", str(page))
    here(tmp_path, "pareto", "-f", "svg", "-o", str(picture))
    body, _, commands = page.read_text().partition("<p>To reproduce it:</p>")
    assert "--dataset digits" in commands  # which gives the networks their input
    texts += [body.partition("<main>")[2], picture.read_text()]
    for shown in texts:
        said = re.search(r"(?i)images|digits|validation|a training|trained|one training", shown)
        assert not said, shown[max(0, said.start() - 200) : said.end() + 50]
    assert "<title>lenet_like by test_search:slow:" in picture.read_text()


def test_what_a_candidate_prints_is_no_data(tmp_path: Path) -> None:
    told = ("--trials", "2", "--workers", "0", "--evaluator", "evaluators:prints")
    ended = nas(tmp_path, "search", "--space", "lenet_like", *told)
    assert "chatter" in ended.stderr
    assert "chatter" not in ended.stdout


def test_an_exhausted_space_is_told(here: Here, tmp_path: Path) -> None:
    told = ("--space", "linear", "--trials", "5", "--workers", "0")
    ended = here(tmp_path, "search", *told, *STUB)
    assert "nas: every network of the space has been evaluated" in ended.stderr
    assert "with --trials" not in ended.stderr
    assert len(trials(tmp_path)) == 1


def test_no_forecast_is_of_more_trials_than_the_space_has_networks(
    here: Here, tmp_path: Path
) -> None:
    """Of six, of which one is over the bound."""
    file = tmp_path / "widths.yaml"
    file.write_text(
        "name: widths\npattern: INPUT -> CONV(width=w) -> GAP -> FC\n"
        "where: {w: {choice: [4, 8, 12, 16, 20, 24]}}\nconstraints: {params: '<= 450'}\n"
    )
    told = ("search", "--space", str(file), "--workers", "0", *STUB)
    ended = here(tmp_path, *told, "--trials", "3").stderr
    assert "with --trials 5 resumes" in ended
    ended = here(tmp_path, *told, "--trials", "20").stderr  # as many as are asked for
    assert "with --trials" not in ended
    assert "more trials" not in ended
    ended = here(tmp_path, *told, "--trials", "20").stderr
    assert "nas: 5 of 20 trials" in ended
    assert " left" not in ended
    assert "with --trials" not in ended
    assert len(trials(tmp_path)) == 5


def test_in_a_locale_without_utf_8_a_name_is_told_as_it_was_written(tmp_path: Path) -> None:
    """And that the locale is at fault: a class's name was said not to be UTF-8, and a study's ended
    in a traceback."""
    images = folder(tmp_path / "data", classes=("Blüte", "Käfer"))
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    told = ("search", "--space", "lenet_like", "--trials", "1", "--workers", "0", *STUB)
    nas(tmp_path, *told, "--study", "s")
    why = "is not in ascii, the encoding of this locale: PYTHONUTF8=1 makes it UTF-8\n"
    for words, name in (
        (("data", "check", str(images)), r"'Bl\xfcte'"),
        (("trials", "ls", "--study", "Käfer"), r"'K\xe4fer'"),
        ((*told, "--study", "Käfer"), r"'K\xe4fer'"),
    ):
        ended = nas(tmp_path, *words, status=2, **ascii).stderr
        assert name in ended
        assert ended.endswith(why)
    nas(tmp_path, "report", "--top", "0", "-o", "Überblick.html", **ascii)
    assert (tmp_path / "Überblick.html").exists()


def test_a_budget_of_time_says_why_it_is_over_and_how_to_go_on(here: Here, tmp_path: Path) -> None:
    """However busy the machine is: the first trial is always begun."""
    told = ("search", "--space", "lenet_like", "--workers", "0", *STUB)
    ended = here(tmp_path, *told, "--budget", "2s").stderr
    count = len(trials(tmp_path))
    assert count >= 1
    assert f"nas: the budget of 2 s is used up: {count} trial" in ended
    assert "  the same command resumes, for another 2 s\n" in ended
    assert not re.search(r"of \d+ trials", ended)  # there is no N
    more = ("--trials", str(count + 2), "--budget", "1h30m")
    ended = here(tmp_path, *told, *more).stderr
    assert len(trials(tmp_path)) == count + 2
    assert re.search(
        rf"nas: all {count + 2} trials are done, with 1 h \d.* of the 1 h 30 min left", ended
    )
    status = here(tmp_path, "status").stdout.splitlines()
    assert "device time" in status[0]
    assert re.search(r" (\d+ min )?\d+ s ", status[1])


def test_where_nothing_fits_the_status_is_3(here: Here, tmp_path: Path) -> None:
    told = ("--workers", "0", "--constraint", "params<=10", *STUB)
    ended = here(tmp_path, "search", "--space", "lenet_like", *told, status=3)
    assert ended.stdout == ""
    assert "none of 2000 draws of lenet_like meets the constraints (params <= 10" in ended.stderr
    assert trials(tmp_path) == []


def test_networks_that_an_evaluator_scored_have_no_images_to_train_on(
    here: Here, tmp_path: Path
) -> None:
    told = ("search", "--space", "lenet_like", "--trials", "2", "--workers", "0", *STUB)
    here(tmp_path, *told)
    for command in (("train", "--trial", "0"), ("report", "--top", "1")):
        ended = here(tmp_path, *command, status=2)
        assert "was scored by " in ended.stderr
        assert "nas train PATTERN --data DIR" in ended.stderr


def test_a_dry_run_shows_the_plan_and_writes_nothing(here: Here, tmp_path: Path) -> None:
    told = ("search", "--space", "lenet_like", "--trials", "7", "--sampler", "tpe", "--dry-run")
    ended = here(tmp_path, *told)
    assert re.search(r"^trials +7 *$", ended.stdout, re.MULTILINE)
    assert re.search(r"^sampler +tpe *$", ended.stdout, re.MULTILINE)
    assert re.search(
        r"^time +about [0-9].* per training, [0-9]+ at once", ended.stdout, re.MULTILINE
    )
    assert re.search(r"^budget +no limit *$", ended.stdout, re.MULTILINE)
    timed = here(tmp_path, *told[:3], "--budget", "1h30m", "--dry-run").stdout
    assert re.search(r"^trials +as many as there is time for *$", timed, re.MULTILINE)
    assert re.search(r"^budget +1 h 30 min *$", timed, re.MULTILINE)
    assert "INPUT -> " in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_of_a_search_is_predicted_and_baselines_are_counted_apart(
    here: Here, tmp_path: Path
) -> None:
    search = ("search", "--space", "lenet_like", "--workers", "0")
    told = here(tmp_path, *search, *STUB, "--trials", "2", "--baseline", "linear").stderr
    assert "nas: 2 of 2 trials, 1 baseline, front of " in told
    assert "2 evaluated, 0 reused, 0 failed, 1 baseline\n" in told
    assert "the same command with --trials 4 resumes" in told

    def row(name: str, *more: str) -> str:
        page = here(tmp_path, *search, *STUB, *more, "--dry-run").stdout
        return re.search(rf"^{name} +(.*?) *$", page, re.MULTILINE)[1]  # type: ignore[index]

    assert row("trials", "--trials", "5") == "5, of which 2 are done: 3 are left"
    assert row("trials", "--trials", "2") == "2, of which 2 are done: --trials 4 continues"
    assert row("time", "--trials", "2", "--baseline", "linear") == "none: nothing left to train"
    assert row("baselines", "--trials", "2", "--baseline", "linear,resnet18") == "resnet18"
    lasting = "as many as there is time for, in addition to the 2 done"
    assert row("trials", "--budget", "1h") == lasting
    wrong = here(tmp_path, *search, *STUB, "--baseline", "resnet19", "--dry-run", status=2)
    assert "--baseline: unknown network resnet19; did you mean" in wrong.stderr


def test_why_trials_failed_is_said_at_the_end(here: Here, tmp_path: Path) -> None:
    (tmp_path / "modest.py").write_text(
        "def f(architecture, *, seed, **_):\n"
        "    if architecture.params > 50_000:\n"
        "        raise ValueError('too large')\n"
        "    return {'accuracy': 0.5}\n"
    )
    told = ("--space", "lenet_like", "--trials", "8", "--workers", "0", "--evaluator", "modest:f")
    ended = here(tmp_path, "search", *told).stderr
    rows = json.loads(here(tmp_path, "trials", "ls", "-f", "json").stdout)
    failed = sum(row["params"] > 50_000 for row in rows)
    assert 0 < failed < 8
    assert f"nas: {failed} failed: ValueError: too large (" in ended


def test_plugins_evaluators_and_options_reach_the_search(here: Here, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from nas.blocks import BLOCKS\n"
        "from nas.layers import RELU, Conv, Node, Shape, Width\n"
        "def twice(x: Shape, *, width: Width) -> Node:\n"
        "    return Conv(width, 3) >> RELU >> Conv(width, 3) >> RELU\n"
        "BLOCKS['TWICE'] = twice\n"
    )
    (tmp_path / "my.yaml").write_text(
        "name: my\npattern: INPUT -> TWICE(width=w) -> GAP -> FC\nwhere: {w: {int: [4, 40]}}\n"
    )
    # An evaluator beside the user, who has not installed it.
    (tmp_path / "table.py").write_text(
        "def look_up(architecture, *, fidelity, seed, report, recipe):\n"
        "    return {'accuracy': 0.5, 'energy': architecture.params / fidelity}\n"
    )
    nas(
        tmp_path,
        *("search", "--space", "my.yaml", "--plugin", "mine.py", "--workers", "0"),
        *("--evaluator", "table:look_up", "--epochs", "7", "--trials", "4", "--sampler", "random"),
        *("--objective", "accuracy:max,energy:min", "--constraint", "params<=3000", "--study", "e"),
        *("--recipe", "lr=0.05", "--seed", "3"),
    )
    rows = json.loads(here(tmp_path, "trials", "ls", "-f", "json").stdout)
    assert len(rows) == 4
    for row in rows:
        assert row["params"] <= 3000
        assert row["energy"] == pytest.approx(row["params"] / 7)
    assert "energy" in here(tmp_path, "pareto").stdout.splitlines()[0]
    # What the record holds can be read without the plug-in.
    page = here(tmp_path, "trials", "show", "0").stdout
    assert "lr=0.05" in page
    assert "CONV(width=" in page


# --- stopped -------------------------------------------------------------------------------------


def asked(*options: str) -> list[str]:
    """A search of 9 trials, where no option says otherwise. Its evaluator imports little, which a
    process of each worker does."""
    usual = {"--trials": "9", "--evaluator": "evaluators:logs_four", "--sampler": "random"}
    more = [word for pair in usual.items() if pair[0] not in options for word in pair]
    return ["search", "--space", "lenet_like", *more, *options]


def start(folder: Path, mark: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nas.cli", *asked(*options)],
        cwd=folder,
        env=environment(folder, **{MARK: mark}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_over(mark: str) -> list[str]:
    """The commands of the processes that a search has left."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if command]  # a zombie has none


def evaluated(folder: Path) -> int:
    path = folder / ".evaluated"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "group", "workers"),
    [
        (signal.SIGINT, True, "2"),  # as a terminal's Ctrl-C, to all of the foreground
        (signal.SIGTERM, False, "2"),
        (signal.SIGINT, True, "0"),
        (signal.SIGTERM, False, "0"),
    ],
)
@pytest.mark.slow
def test_a_stopped_search_leaves_nothing_and_goes_on(
    tmp_path: Path, number: int, group: bool, workers: str
) -> None:
    mark = uuid.uuid4().hex
    running = start(tmp_path, mark, "--workers", workers)
    assert eventually(lambda: evaluated(tmp_path) >= 4)
    (os.killpg if group else os.kill)(running.pid, number)
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    told = "nas: interrupted; the same command resumes study lenet_like-digits"
    assert err.splitlines()[-1] == told
    assert eventually(lambda: not left_over(mark))
    states = {row[4] for row in trials(tmp_path)}
    assert states <= {"finished", "waiting"}

    (tmp_path / "go").touch()
    # In a process of its own: a record tells the evaluator's modules as the process has them.
    again = start(tmp_path, mark, "--workers", "0")
    out, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, err
    found = trials(tmp_path)
    assert len(found) == 9
    assert {row[4] for row in found} == {"finished"}
    assert eventually(lambda: not left_over(mark))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_search_whose_record_is_moved_ends_and_goes_on_when_it_is_back(
    here: Here, tmp_path: Path, workers: str
) -> None:
    mark, record = uuid.uuid4().hex, tmp_path / "nas.db"
    told = ("--trials", "4000", "--evaluator", "evaluators:logs")
    running = start(tmp_path, mark, "--workers", workers, *told)
    assert eventually(lambda: evaluated(tmp_path) >= 4)
    record.rename(tmp_path / "moved.db")
    out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out) == (1, "")
    assert err.splitlines()[-1].startswith("nas: sqlite:///nas.db is no longer there: it was moved")
    assert err.count("no longer there") == 1
    assert not record.exists()
    assert eventually(lambda: not left_over(mark))
    (tmp_path / "moved.db").rename(record)
    assert here(tmp_path, "status").stdout.count("lenet_like-digits") == 1
    assert len(trials(tmp_path)) >= 4
    assert sqlite3.connect(record).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_stopped_while_it_starts_it_shows_no_traceback(tmp_path: Path, number: int) -> None:
    def loaded(pid: int) -> str:
        return Path(f"/proc/{pid}/maps").read_text()

    def started(pid: int) -> str:
        family = [Path(f"/proc/{child}/cmdline") for child in descendants(pid)]
        return "".join(path.read_text() for path in family if path.exists())

    # From the moment when the options are read: before, it is Python that starts.
    for what, where in (
        ("pydantic", loaded),
        ("_multiarray_umath", loaded),
        ("workers.run", started),
    ):
        running = start(tmp_path, "", "--workers", "2", "--evaluator", "evaluators:waits")
        assert eventually(lambda pid=running.pid, what=what, at=where: what in at(pid)), what
        running.send_signal(number)
        out, err = running.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, what
        assert out == ""


# --- the live display ----------------------------------------------------------------------------


def test_on_a_terminal_the_progress_is_live(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    told = ("search", "--space", "lenet_like", "--trials", "30", "--workers", "0", *STUB)
    running = subprocess.Popen(
        [sys.executable, "-m", "nas.cli", *told],
        cwd=tmp_path,
        env=environment(tmp_path, TERM="xterm-256color"),
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:  # the other side was closed
        pass
    assert running.stdout
    out = running.stdout.read().decode()
    assert running.wait(PATIENCE) == 0
    seen = shown.decode()
    screens = [int(n) for n in re.findall(r" (\d+) of 30", re.sub(r"\x1b\[[\d;]*m", "", seen))]
    assert screens == sorted(screens)
    assert len(set(screens)) >= 2, "not once refreshed"
    assert "lenet_like-digits" in seen
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 100, "a line is wider than the terminal"
    assert seen.rindex("\x1b[?25h") > seen.rindex("of 30"), "the cursor is shown again at the end"
    assert "study lenet_like-digits: 30 evaluated" in plain
    assert out.startswith("trial")


# --- what the record has -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a nas.db: a study of 25 trials with three objectives, one of them failed."""
    folder = tmp_path_factory.mktemp("record")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = {"accuracy": "max", "params": "min", "latency_ms": "min"}
    space = test_search.wide_space(objectives=objectives, constraints={"accuracy": ">= 0.6"})
    plan = test_search.plan("measures", space=space, trials=25, study="three")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(test_search.LOG, str(folder / ".evaluated"))
        store = open_store(f"sqlite:///{folder}/nas.db")
        search(plan, store, InProcess())
        with store.engine.begin() as connection:
            connection.execute(
                text("update nas_trials set state = 'failed', failure = 'error' where number = 7")
            )
        store.close()
    return folder


def brute_front(folder: Path) -> list[dict[str, Any]]:
    """By the view ``tradeoffs`` and the definition of dominance alone."""
    with sqlite3.connect(folder / "nas.db") as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute("select * from tradeoffs")]
    able = [r for r in found if r["state"] == "finished" and r["accuracy"] >= 0.6]

    def point(row: dict[str, Any]) -> tuple[float, float, float]:
        return (row["accuracy"], -row["params"], -row["latency_ms"])

    return [
        row
        for row in able
        if not any(test_search.dominates(point(other), point(row)) for other in able)
    ]


def typed(row: dict[str, str]) -> dict[str, Any]:
    numbers = {"trial": int, "params": int, "macs": int, "epochs": int}
    reals = dict.fromkeys(("accuracy", "latency_ms", "seconds"), float)
    return {k: (numbers | reals).get(k, str)(v) if v else None for k, v in row.items()}


@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_front_agrees_with_the_view_and_with_brute_force(
    here: Here, record: Path, form: str
) -> None:
    out = here(record, "pareto", "-f", form).stdout
    read: list[dict[str, Any]] = (
        json.loads(out) if form == "json" else [*map(typed, csv.DictReader(io.StringIO(out)))]
    )
    expected = {row["trial"]: row for row in brute_front(record)}
    points = {(r["accuracy"], r["params"], r["latency_ms"]) for r in expected.values()}
    assert {(r["accuracy"], r["params"], r["latency_ms"]) for r in read} == points
    assert len(read) == len(points) >= 2
    for row in read:
        for key in ("study", "state", "pattern", "fingerprint", "macs", "epochs"):
            assert row[key] == expected[row["trial"]][key]


def test_the_tables_show_what_the_record_has(here: Here, record: Path) -> None:
    front = here(record, "pareto").stdout
    best = max(brute_front(record), key=lambda row: row["accuracy"])
    assert front.splitlines()[1].split()[:2] == [
        str(best["trial"]),
        f"{100 * best['accuracy']:.2f}",
    ]
    rows = json.loads(here(record, "trials", "ls", "-f", "json").stdout)
    assert [row["trial"] for row in rows] == list(range(25))
    assert {row["state"] for row in rows} == {"finished", "failed"}
    failed = json.loads(here(record, "trials", "ls", "--state", "failed", "-f", "json").stdout)
    assert [row["trial"] for row in failed] == [7]
    assert "failed: error" in here(record, "trials", "ls").stdout
    page = here(record, "trials", "show", "3").stdout
    assert rows[3]["pattern"] in " ".join(page.split())
    assert rows[3]["fingerprint"] in page
    status = here(record, "status").stdout.splitlines()[1].split()
    assert status[:2] == ["three", "stack"]
    assert "24" in status


def test_the_storage_comes_from_the_environment(here: Here, record: Path, tmp_path: Path) -> None:
    url, other = f"sqlite:///{record}/nas.db", "sqlite:///no.db"
    there = here(tmp_path, "pareto", "-f", "csv", NAS_STORAGE=url, OPTUNA_STORAGE=other).stdout
    assert there == here(tmp_path, "pareto", "-f", "csv", OPTUNA_STORAGE=url).stdout
    assert (
        there == here(tmp_path, "pareto", "-f", "csv", "--storage", url, NAS_STORAGE=other).stdout
    )
    assert there.startswith("study,trial,state,")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m nas.cli space sample lenet_like -n 3000 | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1


# --- architectures and spaces --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("resnet18", ["11,689,512 params", "512x7x7"]),
        ("INPUT(3, 32, 32) -> [CONV(16) -> BN -> RELU -> POOL]*2 -> FC(10)", ["16x8x8", "13,"]),
        ("resnet_like", ["INPUT -> ", "RESIDUAL.width", "constraints"]),
    ],
)
def test_show_takes_a_pattern_a_network_and_a_space(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shown: str,
    told: Sequence[str],
) -> None:
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, "show", shown)
    assert (status, err) == (0, "")
    for part in told:
        assert part in out


def test_a_space_is_listed_shown_checked_and_sampled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def told(*arguments: str) -> str:
        status, out, err = nas_here(capsys, monkeypatch, tmp_path, "space", *arguments)
        assert (status, err) == (0, "")
        return out

    assert {"resnet_like", "mixed", "linear", "resnet50"} <= set(told("ls").split())
    assert "3x32x32" in told("show", "vgg_like", "--dataset", "digits", "--size", "32").replace(
        "1x32x32", "3x32x32"
    )
    page = told("check", "lenet_like", "--draws", "200")
    assert "200, 100.00 % valid" in page
    assert "█" in page
    assert re.search(r"^MACs: .* to .*, median", page, re.MULTILINE)
    lines = told("sample", "resnet_like", "-n", "3", "--seed", "5").splitlines()
    assert lines[1:] == told("sample", "resnet_like", "-n", "2", "--seed", "6").splitlines()
    fingerprint, params, macs, pattern = lines[0].split("\t")
    drawn = test_search.parse(pattern)
    assert (drawn.fingerprint, drawn.params, drawn.macs) == (fingerprint, int(params), int(macs))


def test_samples_that_break_the_constraints_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(
        "{name: s, pattern: INPUT -> CONV(w) -> FC, where: {w: {int: [1, 64]}},"
        ' constraints: {params: "<= 10_000"}}'
    )
    arguments = ("space", "sample", "s.yaml", "-n", "30")
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *arguments)
    over = sum(int(line.split("\t")[1]) > 10_000 for line in out.splitlines())
    assert (status, 0 < over < 30) == (0, True)
    assert err == f"nas: {over} of 30 break the space's constraints\n"


# --- bad input -----------------------------------------------------------------------------------

SEARCH = ("search", "--space", "lenet_like")
WRONG = {
    "space": (("search", "--space", "resnet_lik"), "unknown space resnet_lik; did you mean resnet"),
    "family": (("search", "--space", "vgg"), "unknown space vgg; did you mean vgg_like?"),
    "space file": (("search", "--space", "no.yaml"), "no.yaml: no such space file"),
    "dataset": ((*SEARCH, "--dataset", "digit"), "digit"),
    "data directory": (
        (*SEARCH, "--dataset", "mnist", "--data", "nowhere"),
        "nowhere does not exist: the data set mnist is read from there",
    ),
    "sampler": ((*SEARCH, "--sampler", "tpf"), "unknown sampler tpf; did you mean tpe?"),
    "trials": ((*SEARCH, "--trials", "0"), "--trials 0: must be 1 or more"),
    "budget": ((*SEARCH, "--budget", "2"), "--budget '2': must be a time with its unit, such as"),
    "no budget": ((*SEARCH, "--budget", "0h"), "--budget 0h: must be 1 second or more, up to"),
    "empty budget": ((*SEARCH, "--budget", ""), "--budget: its value is empty"),
    "requeued": (
        ("submit", "slurm", "--minutes", "60", "--", *SEARCH, "--budget", "2h"),
        "a resumed search starts its budget anew; it needs --minutes 132 or more",
    ),
    "epochs": ((*SEARCH, "--epochs", "0"), "--epochs 0: must be 1 or more"),
    "seed": ((*SEARCH, "--seed", "-1"), "--seed -1: must be from 0 to 4294967295"),
    "objective": ((*SEARCH, "--objective", "loss"), "its direction, NAME:max or NAME:min"),
    "near objective": (
        (*SEARCH, "--objective", "accuracy,latency"),
        "--objective latency: there is no such metric; did you mean latency_ms?",
    ),
    "direction": ((*SEARCH, "--objective", "accuracy:up"), "'up': must be max or min"),
    "constraint": ((*SEARCH, "--constraint", "params=5"), "must be like 'params<=1e6'"),
    "bound": ((*SEARCH, "--constraint", "params<=many"), "'<=many': must be a bound such as"),
    "latency": (
        (*SEARCH, "--constraint", "latency_ms<=0"),
        "--constraint 'latency_ms<=0': no network can keep it: latency_ms is more than 0",
    ),
    "latency below 0": (
        (*SEARCH, "--constraint", "latency_ms@pi/onnx<=-1"),
        "no network can keep it: latency_ms@pi/onnx is more than 0",
    ),
    "share": (
        (*SEARCH, "--constraint", "accuracy>=1.5"),
        "no network can keep it: accuracy is a fraction from 0 to 1",
    ),
    "MACs": ((*SEARCH, "--constraint", "macs<=-1"), "no network can keep it: macs is 0 or more"),
    "recipe": ((*SEARCH, "--recipe", "lrr=1"), "--recipe lrr=1: unknown setting; did you mean lr?"),
    "recipe's name": ((*SEARCH, "--recipe", "smal"), "no recipe; did you mean small?"),
    "setting": ((*SEARCH, "--recipe", "lr=-1"), "recipe.lr is -1.0: must be a number above 0"),
    "plug-in": ((*SEARCH, "--plugin", "no.py"), "no.py: no such file"),
    "evaluator": ((*SEARCH, "--evaluator", "mine"), "'mine': must be MODULE:FUNCTION"),
    "module": ((*SEARCH, "--evaluator", "absent:f"), "'absent:f': No module named 'absent'"),
    "no database": ((*SEARCH, "--storage", "sqlite:///file"), "is not a SQLite database"),
    "no URL": ((*SEARCH, "--storage", "nas.db"), "nas.db"),
    "network": (("show", "resnet19"), "unknown network or space resnet19; did you mean resnet18?"),
    "pattern": (("show", "INPUT -> CNV(8)"), "CNV"),
    "shape": (("show", "INPUT(1, 8, 8) -> [POOL]*4 -> FC(10)"), "POOL"),
    "no record": (("pareto",), "there is no database yet"),
    "format": (("pareto", "-f", "xml", "--storage", "sqlite:///good.db"), "must be table, json"),
    "study": (("pareto", "--study", "thre", "--storage", "sqlite:///good.db"), "mean three?"),
    "trial": (("trials", "show", "99", "--storage", "sqlite:///good.db"), "no trial 99"),
    "state": (
        ("trials", "ls", "--state", "done", "--storage", "sqlite:///good.db"),
        "--state done",
    ),
    "block": ((*SEARCH[:2], "my.yaml", "--plugin", "mine.py"), "argument width is annotated None"),
    "train": (("train", "resnet_like"), "resnet_like is a search space"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record: Path,
    name: str,
) -> None:
    arguments, sentence = WRONG[name]
    (tmp_path / "file").write_text("no database\n" * 100)
    (tmp_path / "good.db").write_bytes((record / "nas.db").read_bytes())
    (tmp_path / "mine.py").write_text(
        "from nas.blocks import BLOCKS\nBLOCKS['MINE'] = lambda x, *, width: None\n"
    )
    (tmp_path / "my.yaml").write_text(
        "name: my\npattern: INPUT -> MINE(w) -> FC\nwhere: {w: {int: [4, 9]}}\n"
    )
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status, out, err = nas_here(capsys, monkeypatch, tmp_path, *arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.startswith("nas: ")
    assert err.count("\n") == 1
    # Python keeps what it compiles of a plug-in beside it.
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "__pycache__"}
    # SQLite's own, while a reader has the file open.
    assert {k: v for k, v in after.items() if not k.startswith("good.db-")} == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export", "lenet5", "--study", "s"), "--study: is for trials of a record"),
        (("export", "lenet5", "--data", "d"), "--data: fp32 is exported without images"),
        (("export", "--trial", "0", "-o", ".."), "--output ..: is a directory"),  # and no database
        (("export", "lenet5", "-o", f"{__file__}/x.py"), "test_cli.py is not a directory"),
        (("train", "linear", "-o", f"{__file__}/x"), "test_cli.py is not a directory"),
        (("train", "lenet5", "--storage", "sqlite:///s"), "--storage: is for trials of a record"),
        (("train", "--trial", "1", "--group-by", "x"), "--group-by: with --trial"),
        (("train", "--trial", "1", "--skip-unreadable"), "--skip-unreadable: with --trial"),
        (("show", "lenet5", "--study", "s"), "--study: is for trials of a record"),
        (("cascade", "a.onnx", "b.onnx", "--study", "s"), "--study: model files are given"),
        (("prune", "a.safetensors", "--storage", "sqlite:///s"), "--storage: is for trials"),
        (
            ("distill", "--teacher", "a.pt", "--student", "lenet5", "--storage", "sqlite:///s"),
            "--storage: is for trials of a record",
        ),
        (("train", "lenet5", "--recipe", "lr=1", "--recipe", "lr=0.1"), "twice, 1.0 and 0.1"),
        (("train", "lenet5", "--recipe", "lr=nan"), "recipe.lr is nan: must be"),
        (("train", "lenet5", "--data", ""), "--data: its value is empty"),
        (("train", "lenet5", "-o", ""), "-o: its value is empty"),
        ((*SEARCH, "--objective="), "--objective: its value is empty"),
        ((*SEARCH, "--evaluator", ""), "--evaluator: its value is empty"),
        (("predict", "model.onnx", ""), "an argument is empty"),
        (("train", "lenet5", "--recipe", "init=a", "--init", "b"), "init: is given twice, a and b"),
        (("data", "pack", "d", "-o", "t", "--megabytes", "0"), "--megabytes 0: must be a"),
        ((*SEARCH, "--space", "vgg_like"), "--space: is given twice, and takes one value"),
        (("train", "lenet5", "--seed=1", "--seed", "2"), "--seed: is given twice"),
        (("it's",), "no such command of nas; known: audit"),
        (("search",), "--space is needed: a file, or one of alexnet_like"),
        (
            ("search", "--space", "linear", "--gpus-per-trial", "2"),
            "--gpus-per-trial is 2: a training uses one GPU",
        ),
        (
            (*SEARCH, *ALONE, "--address", "auto"),
            "--address auto: --workers 0 runs the trials in this",
        ),
        ((*SEARCH, *ALONE, "--gpus-per-trial", "0.5"), "--gpus-per-trial 0.5: --workers 0 runs"),
        ((*SEARCH, *ALONE, "--memory-per-trial", "2"), "--memory-per-trial 2: --workers 0 runs"),
        (
            (*SEARCH, *ALONE, *STUB, "--time-limit", "5"),
            "--time-limit 5: --workers 0 runs the trials in",
        ),
        ((*SEARCH, "--cpus-per-trial", "2"), "--cpus-per-trial 2: without --address"),
        ((*SEARCH, *STUB, "--artifacts", "kept"), "--artifacts kept: an evaluator keeps its own"),
        ((*SEARCH, *STUB, "--keep", "all"), "--keep all: an evaluator keeps its own"),
        ((*SEARCH, *STUB, "--baseline", "hog_svm"), "--baseline hog_svm: it is fitted on"),
        ((*SEARCH, *STUB, "--recipe", "lr=0.1"), "--recipe lr=0.1: test_search:slow has no"),
        ((*SEARCH, *STUB, "--group-by", "a"), "--group-by a: is about image files of yours"),
        ((*SEARCH, "--skip-unreadable"), "--skip-unreadable: is about image files of yours"),
        (
            (*SEARCH, "--trails", "3"),
            "--trails: no such option of nas search; did you mean --trials?",
        ),
        (
            (*SEARCH, "--zzz"),
            "--zzz: no such option of nas search; nas search --help lists",
        ),
        *(  # not near any: --epochs, --study, --format
            (typed, f"{typed[-1]}: no such option of nas {typed[0]}; nas {typed[0]} --help lists")
            for typed in ((*SEARCH, "--nosuch"), (*SEARCH, "--stuff"), ("export", "--foo"))
        ),
        ((*SEARCH, "--data-dir", "x"), "did you mean --data?"),
        (
            (*SEARCH, "--lr", "0.1"),
            "--lr: no such option; as a setting of the recipe, --recipe lr=0.1",
        ),
        (("train", "linear", "--weight-decay=1e-4"), "--recipe weight_decay=1e-4"),
        *(
            ((*SEARCH, "--trials", typed), f"--trials {shown}: must be an integer\n")
            for typed, shown in [
                *((same, same) for same in ("many", "1.5", "nan", "inf", "1e309")),
                (" ", "' '"),
                ("\x1b[2J", "'[2J'"),
            ]
        ),
        ((*SEARCH, "--trials"), "--trials: its value is missing\n"),
        ((*SEARCH, "--dry-run=3"), "--dry-run: takes no value\n"),
        ((*SEARCH, "--workers", "-1"), "--workers -1: must be an integer, 0 or more\n"),
        ((*SEARCH, "--time-limit", "nan"), "--time-limit nan: must be a number, 0 or more\n"),
        (
            (*SEARCH, "--gpus-per-trial", "nan"),
            "--gpus-per-trial nan: must be a number, 0 or more\n",
        ),
        ((*SEARCH, "again"), "again: too many arguments: nas search takes options only\n"),
        (("show", "a", "b"), "b: too many arguments: nas show PATTERN_OR_NAME is all it takes\n"),
        (("status", "postgresql://me:Zebra@h/d"), "postgresql://me:***@h/d: too many arguments"),
        (("predict",), "MODEL is needed: nas predict MODEL PATH...\n"),
        (("predict", "m"), "PATH... is needed: nas predict MODEL PATH...\n"),
        (("data", "pack", "d"), "--output is needed: nas data pack DIR --output OUT\n"),
        (("serach",), "serach: no such command of nas; did you mean search?\n"),
        (("space", "nonsense"), "nonsense: no such command of nas space; known: check, ls, sample"),
        (("--trails",), "--trails: no such option of nas; nas --help lists"),
        (("space", "sample", "linear", "-n", "0"), "--count 0: must be an integer from 1 to"),
    ],
)
def test_wrong_options_are_refused(
    here: Here, tmp_path: Path, arguments: Sequence[str], sentence: str
) -> None:
    ended = here(tmp_path, *arguments, status=2)
    assert ended.stdout == ""
    assert sentence in ended.stderr
    assert re.fullmatch("nas: .+\n", ended.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_record_named_by_the_environment_is_no_option(here: Here, tmp_path: Path) -> None:
    shown = here(tmp_path, "show", "lenet5", NAS_STORAGE="sqlite:///other.db")
    assert "61,706 params" in shown.stdout


# Under a second that way; 0.45 s where it was measured alone.
@pytest.mark.parametrize("name", ["space", "data directory", "sampler", "no database", "network"])
def test_wrong_input_is_answered_before_what_is_slow_is_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no database\n" * 100)
    told, loaded = imported(tmp_path, *WRONG[name][0])
    assert told.returncode == 2, told.stderr
    assert "typer" in loaded
    assert loaded & {"torch", "ray", "optuna", "scipy", "sklearn", "alembic", "pandas"} == set()


def test_other_settings_are_refused_before_anything_starts(here: Here, tmp_path: Path) -> None:
    here(tmp_path, *SEARCH, "--trials", "1", "--workers", "0", *STUB)
    found = trials(tmp_path)
    ended = here(tmp_path, *SEARCH, "--trials", "5", "--epochs", "3", *STUB, status=2)
    assert "settings.epochs is 20 in the study and 3 now" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert trials(tmp_path) == found


# --- the start, and the doctor -------------------------------------------------------------------


def imported(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """How ``nas`` ends, and the packages that it has imported by then."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*{m.partition('.')[0] for m in sys.modules}, sep='\\n'))\n"
        f"sys.argv = {['nas', *arguments]!r}\n"
        "from nas.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return ended, set(ended.stdout.splitlines())


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    _, loaded = imported(tmp_path, "--help")
    assert "typer" in loaded
    heavy = {"torch", "ray", "optuna", "numpy", "scipy", "sklearn", "sqlalchemy", "rich", "yaml"}
    assert loaded & heavy == set()


def test_the_doctor_names_what_works_and_what_does_not(here: Here, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database\n" * 100)
    ended = here(tmp_path, "doctor", "--storage", "sqlite:///file", status=1)
    parts = {
        line.split()[1]: line.split()[0] for line in ended.stdout.splitlines()[1:] if line[0] != " "
    }
    assert parts["torch"] == parts["ray"] == parts["data"] == parts["worker"] == "ok"
    assert parts["database"] == "!!"
    assert "nas db upgrade" in ended.stdout
