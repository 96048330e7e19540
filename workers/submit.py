"""Batch jobs: a whole search handed to Slurm, or to the Ray Jobs of a running cluster.

What is handed over is a command line of ``nas``. Its parts travel quoted by shlex, so that a space,
a ``$`` or a ``;`` in a study's name stays what it is.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas import durations
from nas.errors import NasError, brief
from nas.text import shown_url

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL = 2.0  # seconds between two looks at a Ray job
STARTS = 10  # minutes of a job beside a search: Ray's start, and the trials that are under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What is requested from Slurm: ``cpus`` and ``gpus`` per node, ``minutes`` of wall-clock time.

    ``grace`` seconds before the end the search is interrupted, and the job requeued. Raises
    NasError for a value outside its domain.
    """

    nodes: int = 1
    cpus: int = 1
    gpus: int = 0
    minutes: int = 60
    grace: int = 120
    partition: str = ""
    name: str = "nas"

    def __post_init__(self) -> None:
        whole = {"nodes": 1, "cpus": 1, "gpus": 0, "minutes": 1, "grace": 1}
        for key, least in whole.items():
            if getattr(self, key) < least:
                raise NasError(f"{key} is {getattr(self, key)}: must be {least} or more")
        if self.grace >= self.minutes * 60:
            raise NasError(
                f"grace is {self.grace} s: must be less than the {self.minutes} min asked"
            )
        for key in ("partition", "name"):
            # a directive is a comment to the shell and no quoting of the shell's holds in it
            if not re.fullmatch(r"[\w.,-]*", getattr(self, key)):
                raise NasError(f"{key} is {getattr(self, key)!r}: letters, digits and _ . , - only")


SBATCH = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={minutes}
#SBATCH --signal=B:USR1@{grace}
#SBATCH --requeue
#SBATCH --open-mode=append
{options}
set -u
{needs}
# Ray across the allocation, open to this job alone: the token is in no argument and in no file.
head=$(hostname)
ip=$(hostname -i | cut -d' ' -f1)
case $ip in 127.*) ip=$(hostname -I | cut -d' ' -f1) ;; esac # a name may mean loopback at home
ip=${{ip:-127.0.0.1}}
port=$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Its metrics would be told without: docker-compose.yml says more.
export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=65536 DASHBOARD_METRIC_PORT=65536
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_TOKEN
search= stopped=
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap 'stopped=1; [ -z "$search" ] || kill -INT "$search"' USR1
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \\
    ray start --head --block --include-dashboard=false --include-log-monitor=false \\
    --num-cpus={cpus} --node-ip-address="$ip" --port="$port" &
until (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; do
    kill -0 $! || exit 1
    sleep 1
done
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --overlap --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \\
        ray start --address="$ip:$port" --block --include-log-monitor=false --num-cpus={cpus} &
fi

# A shell's background jobs ignore SIGINT; the search needs it, to stop in a state to resume from.
env --default-signal=INT {command} --address "$ip:$port" &
search=$!
[ -z "$stopped" ] || kill -INT "$search" # the time was over before it began
wait "$search"
status=$?
# A wait that USR1 interrupts says so, though the search may have ended meanwhile: asked again.
while [ "$status" -eq $((128 + $(kill -l USR1))) ] || kill -0 "$search" 2>/dev/null; do
    wait "$search"
    status=$?
done
if [ -n "$stopped" ] && [ "$status" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


STORAGE = "NAS_STORAGE"
AGENT = 120.0  # seconds until a cluster's head takes jobs; 60 were too few at a load of 15


def without_secret(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Arguments that anyone may read, and the storage URL that was removed because of its password;
    empty where there was none. Raises NasError for another URL with a password."""
    kept, secret, rest = list[str](), "", iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name != "--storage":
            url = value if argument.startswith("--") else argument
            protocol, colon, _ = url.partition("://")
            if colon and shown_url(url) != url:
                raise NasError(
                    f"{shown_url(url)} has a password, and others may read a job's command: set "
                    f"FSSPEC_{protocol.upper()}_PASSWORD instead, which fsspec reads"
                )
            kept.append(argument)
            continue
        url = value if equals else next(rest, "")
        if shown_url(url) == url:
            kept += [argument] if equals else [argument, url]
        else:
            secret = url
    return kept, secret


def check_time(arguments: Sequence[str], allocation: Allocation) -> None:
    """Raises NasError where a search's time budget does not end before the job is requeued: the
    budget would start anew each time, without end."""
    following = dict(itertools.pairwise(arguments))
    joined = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    budget = joined.get("--budget", following.get("--budget"))
    if not budget:
        return
    needed = durations.read(budget, "--budget") + allocation.grace
    if needed > 60 * allocation.minutes:
        raise NasError(
            f"--budget {budget}: a job of {allocation.minutes} min is requeued before that is "
            f"over, and a resumed search starts its budget anew; it needs --minutes "
            f"{math.ceil(needed / 60) + STARTS} or more"
        )


def sbatch_script(arguments: Sequence[str], allocation: Allocation) -> str:
    """The script that runs ``nas ARGUMENTS`` on an allocation, and goes on where it was cut off.

    A ``--storage`` with a password is not part of it: set it in ``NAS_STORAGE`` when submitting.
    """
    check_time(arguments, allocation)
    arguments, secret = without_secret(arguments)
    needs = f"export {STORAGE}=${{{STORAGE}:?must be set where this is submitted}}\n"
    options = []
    if allocation.gpus:
        options.append(f"#SBATCH --gpus-per-node={allocation.gpus}")
    if allocation.partition:
        options.append(f"#SBATCH --partition={allocation.partition}")
    return SBATCH.format(
        name=allocation.name,
        nodes=allocation.nodes,
        cpus=allocation.cpus,
        minutes=allocation.minutes,
        grace=allocation.grace,
        options="\n".join(options),
        command=shlex.join(["nas", *arguments]),
        needs=needs if secret else "",
    )


def submit_slurm(arguments: Sequence[str], allocation: Allocation) -> str:
    """Hands the script to sbatch; returns the job's number. Raises NasError if it is refused."""
    script, (_, secret) = sbatch_script(arguments, allocation), without_secret(arguments)
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"],
            input=script,
            text=True,
            capture_output=True,
            check=True,
            env=os.environ | ({STORAGE: secret} if secret else {}),
        )
    except FileNotFoundError as error:
        raise NasError(
            "sbatch is not on this machine: submit from a login node, or --dry-run prints the "
            "script that sbatch takes there"
        ) from error
    except subprocess.CalledProcessError as error:
        raise NasError(f"sbatch refused the job: {brief(error.stderr)}") from error
    return done.stdout.strip().partition(";")[0]


def submit_ray(arguments: Sequence[str], address: str) -> str:
    """Hands ``nas ARGUMENTS`` to the cluster whose dashboard is at ``address``; the job's name.

    ``address`` is a URL such as http://127.0.0.1:8265; a token comes from Ray's own variables. The
    search runs on the cluster's head, where its files and its database must be within reach, and
    has the environment of the head. A password in ``--storage`` is refused: Ray shows a job's
    command to everybody who sees its jobs. This and what follows here raise NasError where no Ray
    Jobs answer, the token is not theirs, or they have no such job.
    """
    if without_secret(arguments)[1]:
        raise NasError(
            f"--storage has a password, and Ray shows a job's command: set {STORAGE} for the "
            "cluster's head instead, or PGPASSWORD"
        )
    command = shlex.join(["nas", *arguments, "--address", "auto"])
    deadline = time.monotonic() + AGENT
    with _jobs(address) as jobs:
        while True:
            try:
                return str(jobs.submit_job(entrypoint=command))
            except RuntimeError as error:  # a head that has just begun has no agent yet
                if "try again later" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1.0)


def follow_ray(name: str, address: str) -> Iterator[str]:
    """The job's output as it comes; ends with the job."""
    printed = 0
    with _jobs(address) as jobs:
        while True:
            ended = jobs.get_job_status(name).is_terminal()  # asked first: the rest is read below
            output = jobs.get_job_logs(name)
            if output[printed:]:
                yield output[printed:]
            printed = len(output)
            if ended:
                return
            time.sleep(POLL)


def status_ray(name: str, address: str) -> str:
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    with _jobs(address) as jobs:
        return str(jobs.get_job_status(name).value)


def stop_ray(name: str, address: str) -> bool:
    """Asks the job to end; False where it had ended before. The same search resumes it."""
    with _jobs(address) as jobs:
        return bool(jobs.stop_job(name))


@contextlib.contextmanager
def _jobs(address: str) -> Iterator[JobSubmissionClient]:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        yield JobSubmissionClient(address)
    except (OSError, RuntimeError, ValueError, ImportError, RayError) as error:
        reason = brief(str(error), 300)
        raise NasError(f"Ray Jobs at {shown_url(address)!r}: {reason}") from error
