"""docker-compose.yml as a whole: a search over two workers, one killed, PostgreSQL restarted.

    python benchmarks/compose.py            # by this machine's own files, two minutes
    python benchmarks/compose.py --real     # the images of Dockerfile and docker-compose.yml, 6 GB

Needs root, podman with runc and its networks (Debian: apt-get install podman runc), and
podman-compose (PyPI). The topology is the file's own: its networks, names, ports, volumes,
variables, restarts and commands. The images are not, without ``--real``: under their names an empty
root is taken, into which the machine's programs, this Python and this repository are mounted
read-only; PostgreSQL is then the machine's. Images, networks and volumes are kept apart from the
machine's own, and are gone in the end. Exit status 0, or 1 with what was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from postgres import binaries  # noqa: E402
from waiting import eventually  # noqa: E402

COMPOSE = ROOT / "docker-compose.yml"
STUDY = "composed"
SEARCH = ["--space", "lenet_like", "--study", STUDY, "--epochs", "2", "--sampler", "random"]
DASHBOARD = "http://127.0.0.1:8080"
PATIENCE = 300.0  # seconds until something counts as a hang

CONTAINERS = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=8000:8000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""

# The root that stands in for an image: of /etc what programs cannot do without.
FOLDERS = ["etc", "proc", "sys", "dev", "tmp", "run", "var", "var/lib", "home", "root", "usr"]
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ETC = ["passwd", "group", "ld.so.cache", "nsswitch.conf", "alternatives"]

# What the image of PostgreSQL does: make the database that its environment names, and serve it.
POSTGRES = """
set -e
PATH={bin}:$PATH
cd /var/lib/postgresql
postgres="setpriv --reuid postgres --regid postgres --clear-groups"
if ! [ -s data/PG_VERSION ]; then
  printf %s "$POSTGRES_PASSWORD" > /run/password
  chown postgres data /run/password
  $postgres initdb -D data -U "$POSTGRES_USER" --pwfile /run/password \\
    --auth scram-sha-256 --encoding UTF8 --locale C
  rm /run/password
  echo 'host all all all scram-sha-256' >> data/pg_hba.conf
  echo "CREATE DATABASE $POSTGRES_DB;" | $postgres postgres --single -D data postgres
fi
exec $postgres postgres -D data -c listen_addresses='*' -c unix_socket_directories=/tmp
"""


@dataclass(slots=True)
class Topology:
    """The services of docker-compose.yml, and what was wrong with them."""

    folder: Path
    environ: dict[str, str]
    files: list[str]
    wrong: list[str] = field(default_factory=list)

    def podman(self, *command: str, check: bool = True) -> str:
        told = subprocess.run(
            ["podman", *command], env=self.environ, capture_output=True, text=True, check=False
        )
        if check and told.returncode:
            raise SystemExit(f"podman {' '.join(command)}: {told.stderr}")
        return told.stdout.strip()

    def compose(self, *command: str) -> list[str]:
        files = [argument for file in self.files for argument in ("-f", file)]
        return ["podman-compose", *files, *command]

    def up(self, *services: str) -> None:
        told = ["up", "--detach", "--scale", "worker=2", *services]
        self.logged(self.compose(*told)).wait()

    def search(self, trials: int) -> subprocess.Popen[bytes]:
        told = ["--profile", "search", "run", "--rm", "search", *SEARCH, "--trials", str(trials)]
        return self.logged(self.compose(*told))

    def logged(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def names(self, service: str) -> list[str]:
        label = f"label=com.docker.compose.service={service}"
        return sorted(self.podman("ps", "--filter", label, "--format", "{{.Names}}").split())

    def select(self, query: str) -> list[list[str]]:
        """The rows of a query, by the psql of the database's container; none while it is away."""
        for name in self.names("postgres"):
            psql = (
                'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -h 127.0.0.1 -U nas -d nas -At -c "$0"'
            )
            told = self.podman("exec", name, "sh", "-c", psql, query, check=False)
            return [line.split("|") for line in told.splitlines()]
        return []

    def finished(self) -> int:
        rows = self.select("SELECT count(*) FROM nas_trials WHERE state = 'finished'")
        return int(rows[0][0]) if rows else 0

    def expect(self, true: Any, what: str) -> None:
        if not eventually(true, PATIENCE):
            self.wrong.append(what)


@contextlib.contextmanager
def topology(real: bool) -> Iterator[Topology]:
    """Nothing runs yet; whatever does in the end is ended."""
    with tempfile.TemporaryDirectory(prefix="nas-compose-") as place:
        folder = Path(place)
        (folder / "containers.conf").write_text(CONTAINERS.format(folder=folder))
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
        environ = {
            **os.environ,
            "CONTAINERS_CONF": f"{folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
            "COMPOSE_PROJECT_NAME": folder.name,
            "NAS_DB_PASSWORD": secrets.token_hex(24),
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        made = Topology(folder, environ, [str(COMPOSE)])
        if not real:
            stand_in(made)
        try:
            yield made
        finally:
            made.logged(made.compose("--profile", "search", "down", "--volumes", "-t", "5")).wait()
            made.podman("rm", "--all", "--force", "-t", "0", check=False)
            left = made.podman("volume", "ls", "--quiet")
            made.wrong += [f"left over: {left}"] if left else []
            made.podman("system", "reset", "--force", check=False)


def stand_in(made: Topology) -> None:
    """Gives the images' names to an empty root, and mounts the machine into it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, target in LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name in ETC:
            tar.add(f"/etc/{name}", f"etc/{name}")
    archive = made.folder / "root.tar"
    archive.write_bytes(packed.getvalue())
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for image in {service["image"] for service in services.values()}:
        made.podman("import", str(archive), f"localhost/{image}")
    python = {str(ROOT), sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)}
    mounts = [f"{path}:{path}:ro" for path in ["/usr", *outermost(python)]]
    path = f"{sys.prefix}/bin:/usr/bin:/usr/sbin"
    told: dict[str, Any] = {}
    for name, service in services.items():
        told[name] = {"volumes": list(mounts)}
        if service["image"].startswith("postgres"):
            script = POSTGRES.format(bin=binaries()).replace("$", "$$")
            told[name] |= {"entrypoint": ["sh", "-c", script]}
        else:
            told[name] |= {"environment": {"PATH": path, "HOME": "/root", "PYTHONPATH": str(ROOT)}}
    override = made.folder / "stand-in.yml"
    override.write_text(yaml.safe_dump({"services": told}))
    made.files.append(str(override))


def outermost(paths: set[str]) -> list[str]:
    """Those that lie in none of the others."""
    found = {Path(path) for path in paths}
    return sorted(str(path) for path in found if not found & set(path.parents))


def asked(path: str) -> str:
    """What the dashboard answers; empty while it does not."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{DASHBOARD}{path}") as answer:
        return str(answer.read().decode())
    return ""


def shown_trials() -> int:
    """How many trials of the study the dashboard shows."""
    with contextlib.suppress(ValueError, LookupError):
        studies = json.loads(asked("/api/studies"))["study_summaries"]
        [number] = [told["study_id"] for told in studies if told["study_name"] == STUDY]
        return len(json.loads(asked(f"/api/studies/{number}?after=0"))["trials"])
    return 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--real", action="store_true", help="pull and build the images")
    options.add_argument("--trials", type=int, default=14, help="in the end; six are undisturbed")
    told = options.parse_args()
    needed = ["podman", "podman-compose"]
    if missing := [name for name in needed if not shutil.which(name)]:
        sys.exit(f"needs {' and '.join(missing)}")
    seconds, begun = {}, time.monotonic()
    with topology(told.real) as made:
        made.up("postgres", "head", "worker", "dashboard")
        made.expect(lambda: "<html" in asked("/dashboard"), "no dashboard before the first search")
        seconds["up"] = time.monotonic() - begun
        first = made.search(6)
        before = {"status": first.wait(PATIENCE), "finished": made.finished()}
        seconds["first search"] = time.monotonic() - begun
        made.expect(lambda: shown_trials() == 6, "the dashboard lacks trials")
        second = made.search(told.trials)
        made.expect(lambda: made.finished() > 6, "the second search does not begin")
        undisturbed = made.finished()
        made.podman("kill", made.names("worker")[0])
        made.podman("restart", "-t", "0", made.names("postgres")[0])
        after = {"status": second.wait(PATIENCE), "finished": made.finished()}
        seconds["second search"] = time.monotonic() - begun
        made.expect(lambda: shown_trials() == told.trials, "the dashboard lacks trials in the end")
        rows = made.select("SELECT state, count(*) FROM nas_attempts GROUP BY state ORDER BY state")
        if before != {"status": 0, "finished": 6}:
            made.wrong.append("the first search")
        if after != {"status": 0, "finished": told.trials}:
            made.wrong.append("the second search")
        log = (made.folder / "log").read_text()
    seconds["down"] = time.monotonic() - begun
    print(json.dumps({
        "before": before,
        "finished at the kill": undisturbed,
        "after": after,
        "attempts": {state: int(count) for state, count in rows},
        "seconds": {name: round(told) for name, told in seconds.items()},
        "wrong": made.wrong,
    }, indent=1))  # fmt: skip
    if made.wrong:
        sys.exit(log[-5000:])


if __name__ == "__main__":
    main()
