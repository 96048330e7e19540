"""Seconds from `nas search` to the first new trial, on a study that has many already.

    python benchmarks/resume.py --trials 10000 [--storage postgresql+psycopg://...]

The study is filled with random architectures of a shipped space in bulk; then the command line
resumes it, with a stub for the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from optuna.distributions import distribution_to_json
from sqlalchemy import create_engine, func, insert, select, update

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
sys.path[:0] = [str(ROOT), str(TESTS)]

from faults_evaluators import accuracy  # noqa: E402

from nas.driver.plan import Plan  # noqa: E402
from nas.driver.proposals import distributions  # noqa: E402
from nas.job import DataRef, Job  # noqa: E402
from nas.spaces.space import load_space  # noqa: E402
from nas.store import open_store  # noqa: E402
from nas.store.tables import attempts, studies, trials  # noqa: E402

STUDY, SPACE, EVALUATOR = "large", "resnet_like", "faults_evaluators:stub"


def fill(url: str, count: int) -> None:
    """A study of ``count`` finished trials, as a search would have left it."""
    space = load_space(SPACE, (1, 8, 8), 10)
    job = Job(pattern="", data=DataRef(name="digits"), epochs=2, evaluator=EVALUATOR)
    store = open_store(url)
    study = store.open_study(Plan(study=STUDY, space=space, job=job, trials=count).row())
    domains = {name: distribution_to_json(d) for name, d in distributions(space)}
    rng, drawn = random.Random(0), {}
    while len(drawn) < count:
        params, architecture = space.draw(rng)
        drawn[architecture.fingerprint] = params, architecture
    rows = [
        {
            "study_id": study.id,
            "number": number,
            "ask": f"{number:032x}",
            "state": "finished",
            "sampled": params,
            "distributions": {name: domains[name] for name in params},
            "pattern": str(architecture),
            "fingerprint": fingerprint,
            "params": architecture.params,
            "macs": architecture.macs,
            "recipe": dataclasses.asdict(job.recipe),
            "job_key": job.key,
            "epochs": 2,
            "seed": number,
            "metrics": {"accuracy": accuracy(fingerprint)},
            "accuracy": accuracy(fingerprint),
            "seconds": 1.0,
            "created": time.time(),
            "finished": time.time(),
        }
        for number, (fingerprint, (params, architecture)) in enumerate(drawn.items())
    ]
    with store.engine.begin() as connection:
        connection.execute(insert(trials), rows)
        counters = update(studies).where(studies.c.id == study.id)
        connection.execute(counters.values(numbers=count))
    store.close()


def resume(url: str, count: int) -> tuple[float, float]:
    """Seconds from the start of the command to the first trial that begins, by the wall's clock and
    of processor time of its process."""
    search = ["search", "--space", SPACE, "--study", STUDY, "--trials", str(count + 4)]
    search += ["--epochs", "2", "--evaluator", EVALUATOR, "--workers", "2"]
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", "from nas.cli import main; main()", *search],
        env={**os.environ, "NAS_STORAGE": url, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"},
        stdout=subprocess.DEVNULL,
    )
    engine = create_engine(url)
    while process.poll() is None:
        with engine.connect() as connection:
            if connection.scalar(select(func.count()).select_from(attempts)):
                break
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    if process.wait():
        sys.exit("the search failed")
    return seconds, used


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=10_000)
    options.add_argument("--storage", help="an empty database; SQLite if left out")
    told = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = told.storage or f"sqlite:///{folder}/record.db"
        begun = time.monotonic()
        fill(url, told.trials)
        print(f"{told.trials} trials filled in {time.monotonic() - begun:.1f} s")
        seconds, used = resume(url, told.trials)
        print(f"{seconds:.1f} s to the first new trial, {used:.1f} s of a processor")


if __name__ == "__main__":
    main()
