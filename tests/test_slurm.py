"""A search as a batch job of a real Slurm: cut off by its time limit, put back, and whole in
the end. munged, slurmctld and slurmd are started here, for this test alone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults_checker import faults
from waiting import PATIENCE, counts, free_ports, wait

TESTS = Path(__file__).parent
STUDY, TRIALS = "batch", 12

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that was put back begins again when its credentials have run out: 120 s, if nothing (or
# less than 5) is said.
AuthInfo=socket={home}/munge.socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
MailProg=/bin/true
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES
"""

# Slurm looks at time limits every 30 s from its own start on, and what is asked to be told 45 s
# before the end of a minute is told the first time that it looks.
MUNGED = "munged --foreground --force --key-file=munge.key --socket=munge.socket"
MUNGED += " --pid-file=munge.pid --log-file=munge.log --seed-file=munge.seed"
DAEMONS = [MUNGED, "slurmctld -D", "slurmd -D"]


@dataclass(frozen=True, slots=True)
class Slurm:
    home: Path
    environ: dict[str, str]

    def call(self, *command: str) -> str:
        told = subprocess.run(
            command, cwd=TESTS, env=self.environ, capture_output=True, text=True, timeout=PATIENCE
        )
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()

    def nas(self, *arguments: str) -> str:
        return self.call(sys.executable, "-c", "from nas.cli import main; main()", *arguments)

    def restarts(self, job: str) -> int:
        found = re.search(r"\bRestarts=(\d+)", self.call("scontrol", "show", "job", job))
        assert found
        return int(found[1])

    def minutes(self, job: str) -> int:
        """How many whole ones it has run."""
        found = re.search(r"\bRunTime=00:(\d+):", self.call("scontrol", "show", "job", job))
        assert found
        return int(found[1])

    def limit(self, job: str, minutes: int) -> None:
        self.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def left(self, job: str) -> list[str]:
        """The command lines of the job's processes."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(
                    b"\0"
                ):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return [line for line in found if line]


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    missing = [d.split()[0] for d in DAEMONS if not shutil.which(d.split()[0], path=path)]
    if missing or os.geteuid():
        told = ", ".join(missing) or "root"
        pytest.skip(f"needs {told} (Debian: apt-get install slurm-wlm, which brings munge)")
    home = Path(tempfile.mkdtemp(prefix="nas-slurm-"))
    host = socket.gethostname().partition(".")[0]
    ports = dict(zip(("control", "node"), free_ports(2), strict=True))
    told = CONF.format(host=host, home=home, cores=os.cpu_count(), **ports)
    (home / "slurm.conf").write_text(told)
    (home / "munge.key").write_bytes(os.urandom(128))
    (home / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (home / name).mkdir()
    environ = {**os.environ, "PATH": path, "SLURM_CONF": f"{home}/slurm.conf"}
    environ |= {"NAS_STORAGE": f"sqlite:///{home}/record.db", "FAULTS_SECONDS": "0.2"}
    environ |= {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "SBATCH_OUTPUT": f"{home}/job"}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        log = stack.enter_context((home / "daemons").open("ab"))
        running = Slurm(home, environ)
        for daemon in DAEMONS:
            command = daemon.split()
            command[0] = str(shutil.which(command[0], path=path))
            process = subprocess.Popen(command, cwd=home, env=environ, stdout=log, stderr=log)
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.terminate)
            if daemon is MUNGED:
                wait(f"no {home}/munge.socket", (home / "munge.socket").exists)
        stack.callback(cancel, running)
        wait("no node", lambda: running.call("sinfo", "--noheader", "--format=%t") == "idle")
        yield running


def cancel(slurm: Slurm) -> None:
    """Ends all jobs, and waits for their processes."""
    slurm.call("scancel", "--user=root")
    wait("a job does not end", lambda: not slurm.call("squeue", "--noheader"))


def ended(url: str) -> int:
    found = counts(url, STUDY)
    return found.get("finished", 0) + found.get("failed", 0)


@pytest.mark.slow
def test_a_batch_job_that_is_cut_off_and_put_back_is_whole_in_the_end(slurm: Slurm) -> None:
    url = slurm.environ["NAS_STORAGE"]
    search = ["search", "--space", "faults_space.yaml", "--study", STUDY, "--trials", str(TRIALS)]
    search += ["--evaluator", "faults_evaluators:lingers", "--epochs", "2", "--sampler", "random"]
    asked = ["--minutes", "60", "--grace", "45", "--cpus", "2", "--name", "nas-test"]
    job = slurm.nas("submit", "slurm", *asked, "--", *search)
    try:
        wait("no first trial", lambda: ended(url) > 0)
        # Only now: how long it takes to begin is up to what else the machine does.
        slurm.limit(job, slurm.minutes(job) + 2)
        wait("not cut off by its time limit", lambda: slurm.restarts(job) >= 1)
        slurm.limit(job, 60)
        assert "nas: interrupted" in (slurm.home / "job").read_text()
        assert "running" not in counts(url, STUDY)
        before = ended(url)
        wait("not resumed", lambda: counts(url, STUDY).get("running", 0) > 0)
        slurm.call("scontrol", "requeue", job)
        wait("not put back", lambda: slurm.restarts(job) >= 2)
        assert ended(url) >= before
        wait("not ended", lambda: not slurm.call("squeue", "--noheader"), 2 * PATIENCE)
    except AssertionError:
        print((slurm.home / "job").read_text(), (slurm.home / "daemons").read_text()[-3000:])
        raise
    assert "JobState=COMPLETED" in slurm.call("scontrol", "show", "job", job)
    assert faults(url, STUDY, TRIALS) == []
    wait("processes are left", lambda: not slurm.left(job))
