"""What every test runs under."""

from __future__ import annotations

import functools
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forking import fork
from hypothesis import HealthCheck, settings
from postgres import Server, postgres, postgres_server
from threadpoolctl import threadpool_limits

from nas.store import Store, open_store

if TYPE_CHECKING:
    from spies import Spy

# By default an example fails that takes 0.2 s, and so does a slow draw: on a busy machine, any.
# And the same examples each time.
settings.register_profile(
    "nas", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("nas")

__all__ = ["fork", "postgres", "postgres_server"]  # fixtures

# What a shell starts in the background (nohup, many CI runners) ignores SIGINT, and so would all
# that the tests start: a signal that is ignored stays so beyond an exec, one that is handled does
# not. The tests themselves go on as they were told.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda number, frame: None)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist's order: by the number of tests alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin first, and of the others those with many: near the end, a long
    one would keep all workers but its own waiting."""
    tests = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path]))


@pytest.fixture(scope="session", autouse=True)
def _lean() -> Iterator[None]:
    """As in a search's worker, here and in what the tests start. Where as many tests as cores run
    at once, threads wait for each other in every layer: the zoo's networks took 164 s of processor
    time with two of them, 52 with one. And what they start may keep what it compiles: nas and the
    tests are 0.5 s of processor time to compile, in each of some hundred processes."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session")
def operators() -> Iterator[None]:
    """torch's exporter reads what it translates operators to from onnxscript's sources at each
    export: a third of its processor time. Here once."""
    from torch.onnx._internal._lazy_import import onnxscript_apis as apis

    with pytest.MonkeyPatch.context() as patch:
        if once := getattr(apis, "get_torchlib_ops", None):
            patch.setattr(apis, "get_torchlib_ops", functools.cache(once), raising=False)
        yield


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a record of its own, for the tests of a file that has no other."""
    return f"sqlite:///{tmp_path}/record.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a record of its own, on each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/record.db"
    server: Server = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    found = open_store(url)
    yield found
    found.close()


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluators of ``test_search`` have a file to write to."""
    monkeypatch.setenv("NAS_TEST_EVALUATED", str(tmp_path / "evaluated"))


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> list[Spy]:
    """The samplers that were made, newest last."""
    from spies import Spy

    from nas.samplers import SAMPLERS  # optuna

    made: list[Spy] = []

    def make(seed: int | None) -> Spy:
        made.append(Spy(seed))
        return made[-1]

    monkeypatch.setitem(SAMPLERS, "spy", make)
    return made
