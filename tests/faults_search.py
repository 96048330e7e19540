"""A search as its own process, without the command line's start: the tests fork it, ready to go."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import optuna

from nas.driver.loop import search
from nas.driver.plan import Plan
from nas.errors import StoreError
from nas.job import DataRef, Job
from nas.spaces.space import load_space
from nas.store import open_store
from nas.workers import open_pool

GAVE_UP = 9  # exit status of a search whose database did not answer in time
SPACE = Path(__file__).with_name("faults_space.yaml")


def plan(study: str, trials: int, evaluator: str = "stub", epochs: int = 2) -> Plan:
    return Plan(
        study=study,
        space=load_space(str(SPACE), (1, 8, 8), 10),
        job=Job(
            pattern="",
            data=DataRef(name="digits"),
            epochs=epochs,
            evaluator=f"faults_evaluators:{evaluator}",
        ),
        trials=trials,
        sampler="random",
    )


def run(
    url: str,
    study: str,
    trials: int,
    *,
    evaluator: str = "stub",
    workers: int = 0,
    ray: str = "",
    lease: float = 60.0,
    patience: float = 60.0,
    environ: dict[str, str] | None = None,
) -> None:
    """Runs or resumes the study, with ``environ`` added to the environment; on the cluster of the
    address ``ray`` if told, whose workers have ``environ``, too."""
    os.environ.update(environ or {})
    os.chdir(Path(__file__).parent)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.basicConfig(level=logging.WARNING)
    store: Any = open_store(url, lease=lease, patience=patience)
    if ray:
        import ray as cluster

        cluster.init(ray, runtime_env={"env_vars": environ or {}}, log_to_driver=False)
    opened = open_pool(workers, ray or None)
    with contextlib.closing(store), contextlib.closing(opened) as pool:
        try:
            search(plan(study, trials, evaluator), store, pool)
        except StoreError:
            sys.exit(GAVE_UP)
