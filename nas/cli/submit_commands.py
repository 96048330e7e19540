"""``nas submit``: a whole search as a batch job."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from nas.cli.usage import told

app = typer.Typer(
    help="Submit a whole search to a batch system: nas submit slurm -- search --space resnet_like",
    no_args_is_help=True,
)

Command = Annotated[list[str], typer.Argument(metavar="-- search ...", help="nas command to run.")]
RayAddress = Annotated[
    str,
    typer.Option(
        "--address", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard."
    ),
]
RAYS = "--address"  # the option of a command that runs on a Ray cluster
RAY = "http://127.0.0.1:8265"
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Job name, as `nas submit ray` printed it.")
]


def _runs(command: Sequence[str], here: typer.Context) -> None:
    """Raises NasError for a command that could not run as a job: parses the command line as the job
    will, with the cluster's --address added."""
    from nas.errors import NasError, brief

    name, *arguments = command
    text = f"-- {shlex.join(command)}"
    commands = here.find_root().command.commands  # type: ignore[attr-defined]
    able = [key for key, each in commands.items() if any(RAYS in p.opts for p in each.params)]
    if name not in able:
        raise NasError(f"{brief(text)}: no job: those on a cluster are {', '.join(able)}")
    try:
        with contextlib.redirect_stdout(io.StringIO()), told():
            parsed = commands[name].make_context(name, [*arguments, RAYS, "auto"])
    except typer.Exit:
        raise NasError(f"{brief(text)}: only tells something: type it here") from None
    except NasError as error:
        raise NasError(f"{brief(text)}: {error}") from None
    if not parsed.params["space"]:
        raise NasError(f"{brief(text)}: --space is needed")


@app.command()
def slurm(
    context: typer.Context,
    command: Command,
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes to request.")] = 1,
    cpus: Annotated[int, typer.Option("--cpus", help="CPUs per node.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs per node.")] = 0,
    minutes: Annotated[
        int,
        typer.Option("--minutes", help="Time limit, after which the job is requeued and resumed."),
    ] = 60,
    grace: Annotated[
        int, typer.Option("--grace", help="Seconds before the limit to stop cleanly in.")
    ] = 120,
    partition: Annotated[
        str, typer.Option("--partition", help="Slurm partition.  [default: Slurm's own]")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Job name.")] = "nas",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script without submitting it.")
    ] = False,
) -> None:
    """Write an sbatch script that starts Ray across the allocation, and submit it."""
    from nas.workers import submit

    _runs(command, context)
    allocation = submit.Allocation(
        nodes=nodes,
        cpus=cpus,
        gpus=gpus,
        minutes=minutes,
        grace=grace,
        partition=partition,
        name=name,
    )
    if dry_run:
        print(submit.sbatch_script(command, allocation).rstrip())
    else:
        print(submit.submit_slurm(command, allocation))


@app.command()
def ray(
    context: typer.Context,
    command: Command,
    address: RayAddress = RAY,
    follow: Annotated[bool, typer.Option(help="Print the job's output until it ends.")] = True,
) -> None:
    """Submit a job to a running Ray cluster, and print the job's name."""
    from nas.workers import submit

    _runs(command, context)
    job = submit.submit_ray(command, address)
    print(job, flush=True)
    if follow:
        for text in submit.follow_ray(job, address):
            print(text, end="", file=sys.stderr, flush=True)
        if submit.status_ray(job, address) != "SUCCEEDED":
            raise typer.Exit(1)


@app.command()
def status(job: JobName, address: RayAddress = RAY) -> None:
    """Show the status of a Ray job."""
    from nas.workers import submit

    print(submit.status_ray(job, address))


@app.command()
def stop(job: JobName, address: RayAddress = RAY) -> None:
    """Stop a Ray job; submitting the same search again resumes it."""
    from nas.workers import submit

    if not submit.stop_ray(job, address):
        print("nas: it had already ended", file=sys.stderr)
