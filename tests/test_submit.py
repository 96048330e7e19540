"""Batch jobs: what Slurm would run is run by bash, with the cluster's commands played (a real Slurm
is in test_slurm.py); Ray Jobs are real."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from faults_checker import faults
from typed import ran
from waiting import PATIENCE, counts, free_ports, wait

from nas.errors import NasError
from nas.workers.submit import Allocation, sbatch_script, submit_ray, submit_slurm

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
        "try:\n    open('begun', 'w').close(); time.sleep(1000)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    command(tmp_path / "nas", f"#!{sys.executable}\n{nas}")
    (tmp_path / "job.sh").write_text(sbatch_script(["search"], Allocation()))
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=allocation)
    wait("it does not begin", (tmp_path / "begun").exists)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE) == 130
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


@pytest.mark.parametrize("told", [["--budget", "50min"], ["--budget=50m"], ["--trials", "9"]])
def test_a_budget_that_ends_within_the_job_is_handed_over(told: list[str]) -> None:
    script = sbatch_script(["search", *told], Allocation(minutes=60))
    assert f"nas search {' '.join(told)} --address" in script


@pytest.mark.parametrize("told", [["--budget", "59min"], ["--budget=59m"]])
def test_a_budget_that_would_begin_again_without_end_is_refused(told: list[str]) -> None:
    """Put back in the queue, the job has its time again: 120 s before its 60 min are over."""
    with pytest.raises(NasError, match="starts its budget anew; it needs --minutes 71 or more"):
        sbatch_script(["search", *told], Allocation(minutes=60))


def test_without_slurm_it_says_where_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NasError, match="login node"):
        submit_slurm(["search"], Allocation())


@pytest.mark.parametrize(
    "storage",
    [
        ["--storage", "postgresql://u:Zebra@h/d"],
        ["--storage=postgresql://u@h/d?password=Zebra"],
    ],
)
def test_a_password_is_in_no_script_and_no_rays_job(
    storage: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The search has it by the environment, which sbatch hands on."""
    command(tmp_path / "sbatch", f"#!/bin/sh\ncat > {tmp_path}/job.sh; echo 7")
    command(tmp_path / "nas", f'#!/bin/sh\necho "$NAS_STORAGE $@" > {tmp_path}/told')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    arguments = ["search", *storage, "--trials", "3"]
    assert submit_slurm(arguments, Allocation()) == "7"
    script = (tmp_path / "job.sh").read_text()
    assert "Zebra" not in script
    assert "nas search --trials 3 --address" in script
    url = storage[-1].removeprefix("--storage=")
    for name, text in COMMANDS.items():
        command(tmp_path / name, f"#!/bin/sh\n{text}\n")
    job = os.environ | {"SLURM_JOB_ID": JOB, "SLURM_NNODES": "1"}
    job.pop("NAS_STORAGE", None)
    ended = subprocess.run(["bash"], input=script, text=True, env=job, capture_output=True)
    assert "NAS_STORAGE: must be set where this is submitted" in ended.stderr
    subprocess.run(["bash"], input=script, text=True, env=job | {"NAS_STORAGE": url}, check=True)
    assert (tmp_path / "told").read_text().startswith(f"{url} search --trials 3 --address")
    with pytest.raises(NasError, match="--storage has a password") as refused:
        submit_ray(arguments, "http://127.0.0.1:1")
    assert "Zebra" not in str(refused.value)


@pytest.mark.parametrize(
    "artifacts",
    [
        ["--artifacts", "sftp://u:Zebra@h/d"],
        ["--artifacts=sftp://u:Zebra@h/d"],
        ["--artifacts", "sftp://u:Zebra@h/d?timeout=3"],
    ],
)
def test_a_password_of_artifacts_is_refused(artifacts: list[str]) -> None:
    told = r"sftp://u:\*\*\*@h/d.* has a password, .*: set FSSPEC_SFTP_PASSWORD instead"
    for handed_over in (sbatch_script, submit_slurm):
        with pytest.raises(NasError, match=told):
            handed_over(["search", *artifacts], Allocation())
    with pytest.raises(NasError, match=told):
        submit_ray(["search", *artifacts], "http://127.0.0.1:1")
    plain = ["search", "--artifacts", "sftp://u@h/d?timeout=3", "--objective", "latency_ms@b:min"]
    assert shlex.join(plain) in sbatch_script(plain, Allocation())


def test_without_slurm_it_is_said_how_to_see_the_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NasError, match=r"sbatch is not on this machine: .* --dry-run prints"):
        submit_slurm(["search"], Allocation())


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


# -- Ray Jobs -------------------------------------------------------------------------------------


class Head:
    """The head of a Ray cluster on loopback, with its token."""

    def __init__(self, home: Path) -> None:
        tests = Path(__file__).parent
        gcs, dashboard, client, agent = free_ports(4)
        path = [str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]
        self.url = f"sqlite:///{home}/record.db"
        self.dashboard = ("127.0.0.1", dashboard)
        self.environ = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "NAS_STORAGE": self.url,
            "FAULTS_SECONDS": "0.2",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        start = ["ray", "start", "--head", "--block", "--num-cpus=1", f"--port={gcs}"]
        start += [f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1"]
        start += [f"--temp-dir={home}/ray", f"--ray-client-server-port={client}"]
        # By itself it is the same port for all: who comes second has no agent, and takes no jobs.
        start += [f"--dashboard-agent-listen-port={agent}"]
        with (home / "log").open("ab") as log:
            self.process = subprocess.Popen(start, env=self.environ, stdout=log, stderr=log)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self.dashboard, timeout=1):
            return True
        return False

    def nas(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        code = "from nas.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,  # it starts a Ray job, which imports all anew
        )

    def submit(self, study: str, trials: int, *options: str) -> subprocess.CompletedProcess[str]:
        space = Path(__file__).with_name("faults_space.yaml")
        search = ["search", "--space", str(space), "--study", study, "--trials", str(trials)]
        search += ["--epochs", "2", "--evaluator", "faults_evaluators:stub", "--sampler", "random"]
        return self.nas("submit", "ray", *options, "--", *search)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    pytest.importorskip("aiohttp_cors", reason="Ray Jobs need ray[default]")
    # A path of its own: Ray's sockets have names of 107 characters at most.
    home = Path(tempfile.mkdtemp(prefix="nas-jobs-"))
    running = Head(home)
    try:
        wait("no dashboard", running.answers)  # to ask by nas is 1.3 s of processor time
        wait("no Ray Jobs", lambda: "does not exist" in running.nas("submit", "status", "x").stderr)
        yield running
    finally:
        running.process.terminate()
        running.process.wait(PATIENCE)
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_a_ray_job_that_is_stopped_leaves_nothing_running_and_is_resumed(head: Head) -> None:
    """And that one is followed to its end. A job is 10 s of processor time."""
    name = head.submit("stopped", 300, "--no-follow").stdout.strip()
    wait("no trial", lambda: counts(head.url, "stopped").get("finished"))
    assert head.nas("submit", "status", name).stdout == "RUNNING\n"
    assert head.nas("submit", "stop", name).returncode == 0
    wait("not stopped", lambda: head.nas("submit", "status", name).stdout == "STOPPED\n")
    ended = counts(head.url, "stopped")
    assert "running" not in ended
    trials = sum(ended.values()) + 2
    told = head.submit("stopped", trials)
    assert told.returncode == 0, told.stderr
    assert "nas: study stopped:" in told.stderr  # its output, as it came
    name = told.stdout.strip()
    assert head.nas("submit", "status", name).stdout == "SUCCEEDED\n"
    assert faults(head.url, "stopped", trials) == []
    again = head.nas("submit", "stop", name)
    assert (again.returncode, again.stderr) == (0, "nas: it had already ended\n")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "Job nonesuch does not exist"),
        ({"RAY_AUTH_TOKEN": "guessed"}, "Invalid authentication token"),
        ({"RAY_AUTH_MODE": "disabled"}, "Missing authentication token"),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}, "Failed to connect"),
    ],
)
def test_ray_jobs_that_refuse_say_why(head: Head, environ: dict[str, str], sentence: str) -> None:
    told = head.nas("submit", "status", "nonesuch", **environ)
    assert told.returncode == 2
    assert told.stderr.startswith("nas: Ray Jobs at 'http://127.0.0.1:")
    assert sentence in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", [["slurm", "--dry-run"], ["ray", "--no-follow"]])
@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (["rm", "-rf", "x"], "-- rm -rf x: no job: those on a cluster are search"),
        (["train", "resnet18"], "-- train resnet18: no job: those on a cluster are search"),
        (["search", "--spce", "mixed"], "-- search --spce mixed: --spce: no such option"),
        (["search", "--lr", "1"], "-- search --lr 1: --lr: no such option; as a setting of the"),
        (["search", "--space", "mixed", "--trials", "x"], ": --trials x: must be an integer"),
        (["search", "--space", "mixed", "b c"], "'b c': b c: too many arguments"),
        (["search", "--trials", "9"], "-- search --trials 9: --space is needed"),
        (["search", "--help"], "-- search --help: only tells something: type it here"),
    ],
)
def test_what_cannot_run_as_a_job_is_refused_at_once(
    kind: list[str], told: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ran(capsys, "submit", *kind, "--", *told)
    assert (status, out) == (2, "")
    assert err.startswith("nas: -- ")
    assert reason in err


def test_a_search_is_handed_over_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ("search", "--space", "mixed", "--study", "a b", "--recipe", "lr=0.1")
    status, out, err = ran(capsys, "submit", "slurm", "--dry-run", "--", *typed)
    assert (status, err) == (0, "")
    assert "nas search --space mixed --study 'a b' --recipe lr=0.1 --address" in out
