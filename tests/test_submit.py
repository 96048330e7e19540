"""Batch jobs: what Slurm would run is run by bash, with the cluster's commands played."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nas.errors import NasError
from workers.submit import Allocation, sbatch_script, submit_slurm

HOSTILE = [
    "search",
    "--study",
    "a b; touch hacked; $(touch hacked) `touch hacked` 'x' \"y\" {z} \\",
]

JOB = str(os.getpid())  # so that test runs side by side do not meet at one port
PORT = 20000 + int(JOB) % 10000

# srun drops its options and runs the command here; ray is a port that answers
COMMANDS = {
    "srun": 'while case "$1" in --*) true;; *) false;; esac; do shift; done; exec "$@"',
    "ray": f"exec {sys.executable} -m http.server {PORT} >/dev/null 2>&1",
    "scontrol": 'echo "$@" > requeued',
}


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job of one node."""
    for name, text in COMMANDS.items():
        command(tmp_path / name, f"#!/bin/sh\n{text}\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": JOB, "SLURM_NNODES": "1"}


def command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_arguments_arrive_as_they_were_given(tmp_path: Path, allocation: dict[str, str]) -> None:
    nas = "import sys; open('told', 'w').write(repr(sys.argv[1:])); sys.exit(3)"
    command(tmp_path / "nas", f"#!{sys.executable}\n{nas}\n")
    script = sbatch_script(HOSTILE, Allocation())
    ended = subprocess.run(["bash"], input=script, text=True, cwd=tmp_path, env=allocation)
    assert ended.returncode == 3
    told = (tmp_path / "told").read_text()
    assert told.startswith(repr(HOSTILE)[:-1])
    assert re.search(rf"'--address', '[^']+:{PORT}'\]$", told)
    assert not (tmp_path / "hacked").exists()
    assert not (tmp_path / "requeued").exists()


def test_before_the_time_limit_the_search_stops_and_is_put_back(
    tmp_path: Path, allocation: dict[str, str]
) -> None:
    nas = (
        "import sys, time\n"
        "try:\n    open('begun', 'w').close(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    command(tmp_path / "nas", f"#!{sys.executable}\n{nas}")
    (tmp_path / "job.sh").write_text(sbatch_script(["search"], Allocation()))
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=allocation)
    deadline = time.monotonic() + 20
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 130
    assert (tmp_path / "requeued").read_text() == f"requeue {JOB}\n"


def test_the_directives_say_what_was_asked() -> None:
    asked = Allocation(nodes=3, cpus=8, gpus=2, minutes=90, grace=60, partition="gpu")
    directives = re.findall(r"^#SBATCH (.*)$", sbatch_script(["search"], asked), re.M)
    assert {"--nodes=3", "--cpus-per-task=8", "--gpus-per-node=2"} <= set(directives)
    assert {"--time=90", "--signal=B:USR1@60", "--partition=gpu", "--requeue"} <= set(directives)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"nodes": 0}, "nodes is 0"),
        ({"gpus": -1}, "gpus is -1"),
        ({"minutes": 1}, "grace is 120 s"),
        ({"name": "x\n#SBATCH --uid=0"}, "name is"),
        ({"partition": "a b"}, "partition is 'a b'"),
    ],
)
def test_an_allocation_outside_its_domain_is_named(values: dict[str, object], word: str) -> None:
    with pytest.raises(NasError, match=word):
        Allocation(**values)  # type: ignore[arg-type]


def test_without_slurm_it_says_where_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NasError, match="login node"):
        submit_slurm("")


def test_the_compose_file_has_no_default_secret_and_publishes_on_loopback() -> None:
    text = (Path(__file__).parents[1] / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert set(re.findall(r"\$\{(\w+)(:\?|)", text)) == {
        ("NAS_DB_PASSWORD", ":?"),
        ("RAY_AUTH_TOKEN", ":?"),
    }
