"""A search is killed wherever it may be, and nothing is lost, repeated or counted twice."""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults_checker import faults
from faults_evaluators import FOLDER
from faults_search import run
from postgres import Server, postgres  # noqa: F401 - the fixture

import nas
from nas.failpoints import FAILPOINTS

TRIALS = 12
STUDY = "faults"

# A server that has imported what a search needs, and forks it in 20 ms instead of 1.5 s.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["faults_search", "alembic.command", "ray", "torch"])

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/record.db"
    server: Server = request.getfixturevalue("postgres")
    return server.database()


def start(url: str, study: str = STUDY, trials: int = TRIALS, **how: Any) -> Any:
    process = FORK.Process(target=run, args=(url, study, trials), kwargs=how)
    process.start()
    return process


def finish(*args: Any, **how: Any) -> int | None:
    """A search to its end; the process's exit status, negative for a signal."""
    process = start(*args, **how)
    process.join(60)
    code: int | None = process.exitcode
    process.kill()
    return code


# -- every failpoint ------------------------------------------------------------------------------

# Which time that a place is reached, where the first is not the one to be tested.
TURNS = {"asked": 4, "begun": 4, "dispatched": 4, "received": 4, "recorded": 4, "told": 4}
TURNS |= {"reused": 2}
TURNS |= {"checkpoint_half": 3, "checkpoint_whole": 3, "checkpoint_between": 3}
TURNS |= {"job_taken": 3, "job_done": 3, "seat_taken": 3, "seat_done": 3}

# The study is made, the first trial begun, the second finished.
WRITES = ["writing:1", "writing:2", "writing:4", "written:1", "written:4"]

PLACES = [f"{n}:{TURNS.get(n, 1)}" for n in FAILPOINTS if not n.startswith("writ")] + WRITES


def test_every_failpoint_is_somewhere_and_nothing_else_is() -> None:
    root = Path(nas.__file__).parents[1]
    sources = [*root.glob("nas/**/*.py"), *root.glob("workers/*.py")]
    found = [name for s in sources for name in re.findall(r'\breach\("(\w+)"\)', s.read_text())]
    found.remove("told")  # in the docstring of nas.failpoints
    assert set(found) == set(FAILPOINTS)


@pytest.mark.parametrize("place", PLACES)
def test_a_search_killed_at(place: str, url: str, tmp_path: Path) -> None:
    killed = {"NAS_FAILPOINT": place, FOLDER: str(tmp_path)}
    spared = {FOLDER: str(tmp_path)}
    how: dict[str, Any] = {}
    if place.startswith("checkpoint"):
        how["evaluator"] = "keeps"
    if place.startswith("reused"):
        assert finish(url, "before", 4) == 0
    if place.startswith(("recovered", "claimed")):
        assert finish(url, environ={"NAS_FAILPOINT": "dispatched:3"}) == -signal.SIGKILL
    if place.startswith(("job", "seat")):
        # Workers are replaced, and the search that they work for goes on.
        assert finish(url, workers=2, environ=killed) == 0
    else:
        assert finish(url, environ=killed, **how) == -signal.SIGKILL
        assert finish(url, environ=spared, **how) == 0
    assert faults(url, STUDY, TRIALS) == []
    if place.startswith("checkpoint"):
        epochs = Counter((tmp_path / "epochs").read_text().splitlines())
        assert sorted(epochs.values())[-2:] in ([1, 1], [1, 2])  # one epoch at most was repeated
