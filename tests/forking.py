"""Processes of tests that are forked with all imported: in 20 ms instead of seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

READY = ["faults_search", "test_store", "alembic.command", "psycopg", "ray", "torch"]


@pytest.fixture(scope="session")
def fork() -> ForkServerContext:
    """A process has one such server, so what any test needs of it stands in one place. It looks for
    modules where a new Python does, not where pytest does, and passes over one that it does not
    find: then each of its processes would import it again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(READY)
    tests = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tests.parent), str(tests)]))
        forkserver.ensure_running()
    process = context.Process(target=look)
    process.start()
    process.join()
    assert process.exitcode == 0, "not all was imported before the fork"
    return context


def look() -> None:
    sys.exit(not sys.modules.keys() >= {*READY})
