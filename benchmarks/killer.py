"""Kills a search again and again, then reads from its database alone whether anything was lost.

    python benchmarks/killer.py --database postgresql --kills 1000 --trials 500 --seed 1
    python benchmarks/killer.py --database sqlite --kills 1000 --trials 500 --seed 1
    python benchmarks/killer.py --database sqlite --kills 100 --trials 100 --drivers 3
    python benchmarks/killer.py --database postgresql --only server --kills 20 --trials 200

A search of stub trainings is started by the command line, and restarted whenever it was killed. On
PostgreSQL it runs on a Ray cluster of several raylets; on SQLite on this machine alone. Several
drivers share the study, and on PostgreSQL the cluster. The seed gives the order of the kills and
their spread over the search; what the processes do at that moment cannot be seeded. Exit status 0,
or 1 with what was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
sys.path[:0] = [str(ROOT), str(TESTS)]

from faults_checker import faults  # noqa: E402
from postgres import Server  # noqa: E402
from waiting import eventually  # noqa: E402

from nas.processes import descendants  # noqa: E402
from nas.workers.keeper import adopt_orphans  # noqa: E402

STUDY = "killed"
PATIENCE = 120.0  # seconds without progress, or without a victim, that are taken for a hang
SPREAD = 0.95  # of the search, over which the kills are spread: the last one still finds it running

# How often each is killed. A driver takes three seconds to come back, a raylet two, all else less.
WEIGHTS = {
    "postgresql": {"driver": 2, "candidate": 6, "seat": 3, "raylet": 1, "backend": 6, "server": 2},
    "sqlite": {"driver": 2, "candidate": 10},
}


@dataclass(slots=True)
class Scene:
    """What there is to kill."""

    url: str
    trials: int
    seconds: float
    folder: Path
    server: Server | None = None
    cluster: Any = None
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: int = 2  # of a driver without a cluster
    starts: int = 0
    joining: threading.Thread | None = None
    failures: list[str] = field(default_factory=list)

    def start_driver(self) -> subprocess.Popen[bytes]:
        where = ["--workers", str(self.workers)]
        if self.cluster:
            where = ["--address", self.cluster.address]
        search = ["search", "--space", "faults_space.yaml", "--dataset", "digits", "--epochs", "2"]
        search += ["--evaluator", "faults_evaluators:stub", "--sampler", "random"]
        search += ["--study", STUDY, "--trials", str(self.trials), *where]
        code = "import nas.cli; nas.cli.main()"
        self.starts += 1
        with Path(self.log).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, *search],
                cwd=TESTS,
                env={**os.environ, **environ(self.folder), "NAS_STORAGE": self.url},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return f"{tempfile.gettempdir()}/nas-killer-{os.getpid()}.log"

    def own(self) -> set[int]:
        """The processes whose end Popen will ask for."""
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes] if self.cluster else []
        told = [info for node in nodes for infos in node.all_processes.values() for info in infos]
        return {process.pid for process in [*self.drivers, *(info.process for info in told)]}

    def pace(self, ahead: int) -> None:
        """Has trainings take longer, up to 1 s an epoch, the further the search is ahead of the
        kills: others on the machine may slow these down."""
        slower = min(1.0, self.seconds * 2.0 ** min(max(ahead, 0), 10))
        (self.folder / "new").write_text(str(slower))
        (self.folder / "new").rename(self.folder / "pace")

    def reap(self) -> None:
        """Buries the orphans that died, as init would: Ray's workers look whether their raylet is a
        process, and go on for ever under one that is a zombie."""
        for pid in set(descendants(os.getpid())) - self.own():
            if status(pid) == ("Z", os.getpid()):
                os.waitpid(pid, os.WNOHANG)

    def joined(self) -> None:
        """Waits for the node that is about to join the cluster."""
        if self.joining:
            self.joining.join()

    def over(self) -> bool:
        """Whether all drivers ended; one that failed is reported, and restarted."""
        self.reap()
        codes = [driver.poll() for driver in self.drivers]
        for place, code in enumerate(codes):
            if code:
                last = Path(self.log).read_text().strip().splitlines()[-1:]
                self.failures.append(f"a search ended with {code}: {last}")
                self.drivers[place] = self.start_driver()
        return not any(code or code is None for code in codes)

    def ended(self) -> int:
        """How many trials ended; 0 while the database is away."""
        query = text("SELECT count(*) FROM nas_trials WHERE state IN ('finished', 'failed')")
        with contextlib.suppress(DBAPIError):
            return int(self.ask(query)[0])
        return 0

    def ask(self, query: Any) -> list[Any]:
        """The first column of what a query selects."""
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            return list(connection.scalars(query))


def environ(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    return {"PYTHONPATH": path, "FAULTS_PACE": f"{folder}/pace", "OMP_NUM_THREADS": "1"}


# -- victims: each kills one, or returns False where there is none at present ---------------------


def driver(scene: Scene, rng: random.Random) -> bool:
    running = [place for place, each in enumerate(scene.drivers) if each.poll() is None]
    if not running:
        return False
    place = rng.choice(running)
    scene.drivers[place].kill()
    scene.drivers[place].wait()
    scene.drivers[place] = scene.start_driver()
    return True


def candidate(scene: Scene, rng: random.Random) -> bool:
    """The process in which a candidate is evaluated."""
    return one_of(found("nas.workers.run import serve"), rng)


def seat(scene: Scene, rng: random.Random) -> bool:
    """The Ray actor that holds a seat."""
    return one_of(found("ray::Seat"), rng)


def raylet(scene: Scene, rng: random.Random) -> bool:
    """A node's raylet; a new node joins, beside the kills: it takes 2 to 5 s."""
    scene.joined()
    nodes = sorted(scene.cluster.worker_nodes, key=lambda node: node.unique_id)
    node = rng.choice(nodes)
    scene.cluster.worker_nodes.discard(node)
    process = node.all_processes["raylet"][0].process
    process.kill()
    process.wait()
    new = {"num_cpus": 1, "wait": False}
    scene.joining = threading.Thread(target=scene.cluster.add_node, kwargs=new)
    scene.joining.start()
    return True


def backend(scene: Scene, rng: random.Random) -> bool:
    """A connection to PostgreSQL, by its administrator."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with contextlib.suppress(DBAPIError):
        if pids := scene.ask(text(f"SELECT pid {others} ORDER BY pid")):
            kill = text("SELECT pg_terminate_backend(:pid)").bindparams(pid=rng.choice(pids))
            return bool(scene.ask(kill)[0])
    return False


def server(scene: Scene, rng: random.Random) -> bool:
    """PostgreSQL as a whole, by an immediate stop; it is started again."""
    assert scene.server
    scene.server.stop("immediate")
    time.sleep(rng.uniform(0, 0.5))
    scene.server.start()
    return True


VICTIMS: dict[str, Callable[[Scene, random.Random], bool]] = {
    "driver": driver,
    "candidate": candidate,
    "seat": seat,
    "raylet": raylet,
    "backend": backend,
    "server": server,
}


def found(words: str) -> list[int]:
    """Our processes whose command line has these words."""
    pids = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words in command and not command.startswith("/bin/sh"):
                pids.append(pid)
    return sorted(pids)


def one_of(pids: list[int], rng: random.Random) -> bool:
    with contextlib.suppress(ProcessLookupError):
        if pids:
            os.kill(rng.choice(pids), signal.SIGKILL)
            return True
    return False


# -- the search -----------------------------------------------------------------------------------


def kill_through(scene: Scene, kinds: list[str], rng: random.Random) -> Counter[str]:
    """Kills one of each of ``kinds`` in turn, spread over the search, then waits for its end."""
    killed: Counter[str] = Counter()
    for place, kind in enumerate(kinds):
        due = int(SPREAD * scene.trials * place / len(kinds))
        moment = rng.uniform(0, 0.1)
        if not eventually(lambda due=due: scene.over() or reached(scene, due), PATIENCE):
            scene.failures.append(f"no progress to {due} trials in {PATIENCE:.0f} s")
            break
        time.sleep(moment)
        turn = random.Random(f"{place} {kind} {moment}")
        killing = functools.partial(VICTIMS[kind], scene, turn)
        if not eventually(lambda killing=killing: scene.over() or killing(), PATIENCE):
            scene.failures.append(f"no {kind} to kill in {PATIENCE:.0f} s")
            break
        if scene.over():
            scene.failures.append(f"over after {place} kills")
            break
        killed[kind] += 1
        if sum(killed.values()) % 50 == 0:
            print(f"{sum(killed.values())} kills, {scene.ended()} trials", flush=True)
    scene.pace(0)
    if not eventually(scene.over, 3 * PATIENCE):
        scene.failures.append("the search did not end")
    return killed


def reached(scene: Scene, due: int) -> bool:
    ended = scene.ended()
    scene.pace(ended - due)
    return ended >= due


@contextlib.contextmanager
def stage(database: str, trials: int, nodes: int, seconds: float) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if database == "sqlite":
            scene = Scene(f"sqlite:///{folder}/record.db", trials, seconds, folder)
        else:
            from clusters import started

            running = stack.enter_context(Server())
            os.environ.update(environ(folder))  # the raylets', and so the candidates'
            # Its hooks for an exit want the main thread, and nodes join in another.
            cluster = started(num_cpus=0)
            stack.callback(cluster.shutdown)
            for _ in range(nodes):
                cluster.add_node(num_cpus=1)
            scene = Scene(running.database(), trials, seconds, folder, running, cluster)
        scene.pace(0)
        yield scene
        for each in scene.drivers:
            each.kill()
            each.wait()
        scene.joined()
    scene.cluster, scene.drivers = None, []


def status(pid: int) -> tuple[str, int]:
    """A process's state, as one letter, and its parent."""
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return told[0], int(told[1])
    return "Z", 0


def left_over(scene: Scene) -> list[str]:
    """Our processes that still run: everything that we have started, for orphans become ours."""
    scene.reap()
    names = []
    for pid in descendants(os.getpid())[1:]:
        with contextlib.suppress(OSError, IndexError):
            if status(pid)[0] != "Z":
                names.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " "))
    return names


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--database", choices=WEIGHTS, default="postgresql")
    options.add_argument("--kills", type=int, default=1000)
    options.add_argument("--trials", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--drivers", type=int, default=1, help="of the one study, at once")
    options.add_argument("--nodes", type=int, default=3, help="raylets besides the head's")
    options.add_argument("--seconds", type=float, default=0.02, help="of an epoch; a trial has two")
    options.add_argument("--only", choices=VICTIMS, help="kill nothing else")
    told = options.parse_args()
    weights = {told.only: 1} if told.only else WEIGHTS[told.database]
    rng = random.Random(told.seed)
    kinds = rng.choices(list(weights), weights=list(weights.values()), k=told.kills)
    adopt_orphans(True)
    begun = time.monotonic()
    with stage(told.database, told.trials, told.nodes, told.seconds) as scene:
        scene.workers = 2 if told.drivers == 1 else 1
        scene.drivers = [scene.start_driver() for _ in range(told.drivers)]
        killed = kill_through(scene, kinds, rng)
        wrong = scene.failures + faults(scene.url, STUDY, told.trials)
        [attempts] = scene.ask(text("SELECT count(*) FROM nas_attempts"))
    eventually(lambda: not left_over(scene))
    wrong += [f"left over: {name}" for name in left_over(scene)]
    print(json.dumps({
        "database": told.database,
        "seed": told.seed,
        "trials": told.trials,
        "kills": sum(killed.values()),
        **killed,
        "attempts": attempts,
        "at once": told.drivers,
        "drivers": scene.starts,
        "seconds": round(time.monotonic() - begun),
        "wrong": wrong,
    }, indent=1))  # fmt: skip
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
