"""A cluster of two hosts, which are network namespaces joined by a veth: Ray's head, PostgreSQL and
the driver on the one, a worker on the other."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import yaml
from postgres import Server, binaries
from waiting import PATIENCE, wait

TESTS = Path(__file__).parent
TRIALS = 24
DOWN = float(os.environ.get("NAS_TEST_DOWN", 10))  # seconds that the link is down
COMPOSE = TESTS.parent / "docker-compose.yml"

# Ray takes a node for dead after 4 s without an answer; by its own settings if DOWN is 30 or more.
HEALTH = {"initial_delay_ms": "1000", "period_ms": "1000", "timeout_ms": "1000"}
HEALTH |= {"failure_threshold": "3"}


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace, with an address of its own."""

    name: str
    address: str
    environ: dict[str, str]
    log: Path

    @property
    def within(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.within, *command], cwd=TESTS, env=self.environ, stdout=log, stderr=log
            )

    def run(self, *command: str) -> str:
        told = subprocess.run(
            [*self.within, *command], cwd=TESTS, env=self.environ, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    def python(self, *arguments: str) -> str:
        return self.run(sys.executable, *arguments)

    def search(self, study: str, trials: int, evaluator: str) -> subprocess.Popen[bytes]:
        asked = ["search", "--space", "faults_space.yaml", "--study", study, "--sampler", "random"]
        asked += ["--trials", str(trials), "--epochs", "2", "--address", f"{self.address}:6379"]
        asked += ["--evaluator", f"faults_evaluators:{evaluator}"]
        return self.start(sys.executable, "-c", "from nas.cli import main; main()", *asked)

    def pids(self) -> list[int]:
        told = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in told.stdout.split()]

    def end(self) -> None:
        """Kills all that runs here, and the host."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


@dataclass(frozen=True, slots=True)
class Cluster:
    head: Host
    worker: Host
    server: Server

    def count(self, study: str, state: str) -> int:
        """How many trials of the study are in this state."""
        query = "SELECT count(*) FROM nas_trials t JOIN nas_studies s ON s.id = t.study_id"
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            [row] = self.server.sql(f"{query} WHERE s.name = '{study}' AND t.state = '{state}'")
            return int(row[0])
        return 0


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if binaries() is None or not shutil.which("ip"):
        pytest.skip("needs PostgreSQL and ip (Debian: apt-get install postgresql iproute2)")
    folder = tmp_path_factory.mktemp("hosts")
    # What closes Ray's ports is said once, in the file that users start a cluster with.
    told = yaml.safe_load(COMPOSE.read_text())["services"]["head"]["environment"]
    environ = {k: str(v) for k, v in told.items() if k.startswith(("RAY_", "AUTO", "DASH"))}
    environ |= {f"RAY_health_check_{key}": value for key, value in HEALTH.items() if DOWN < 30}
    environ |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    path = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environ |= {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environ |= {"OMP_NUM_THREADS": "1", "FAULTS_SECONDS": "0.3"}
    secret = quote(Server.password, safe="")
    with contextlib.ExitStack() as stack:
        hosts = []
        for number, name in enumerate(("head", "worker"), 1):
            unique = f"nas-{name}-{os.getpid()}"
            try:
                ip(f"netns add {unique}")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
            host = Host(unique, f"10.77.0.{number}", environ, folder / name)
            stack.callback(host.end)
            hosts.append(host)
        head, worker = hosts
        ip(f"link add veth0 netns {head.name} type veth peer name veth0 netns {worker.name}")
        for host in hosts:
            for command in ("addr add {}/24 dev veth0", "link set veth0 up", "link set lo up"):
                host.run("ip", *command.format(host.address).split())
        server = stack.enter_context(Server(listen="*", within=head.within))
        url = f"postgresql+psycopg://nas:{secret}@127.0.0.1:{server.port}/postgres"
        head.environ.update({**os.environ, **environ, "NAS_STORAGE": url})
        worker.environ.update({**os.environ, **environ})
        address = f"{head.address}:6379"
        start = "ray start --block --disable-usage-stats"
        head.start(*start.split(), "--head", "--num-cpus=0", "--port=6379", "--dashboard-port=8265",
                   f"--node-ip-address={head.address}")  # fmt: skip
        # As a unit of systemd or a container that is started again whenever it ends.
        again = f"while :; do {start} --address={address} --node-ip-address={worker.address}"
        worker.start("sh", "-c", f"{again} --num-cpus=2; sleep 1; done")
        yield Cluster(head, worker, server)


def listening(host: Host) -> list[int]:
    """The ports on which the host can be reached from others."""
    told = host.run("ss", "--listening", "--tcp", "--numeric", "--no-header")
    found = [line.split()[3].rpartition(":") for line in told.splitlines()]
    return sorted({int(port) for address, _, port in found if "127.0.0.1" not in address})


@pytest.mark.slow
def test_no_port_answers_who_has_no_token(cluster: Cluster) -> None:
    pytest.importorskip("grpc")
    head, worker = cluster.head, cluster.worker
    dashboard = head.start(sys.executable, "-c", "from nas.cli import main; main()", "dashboard")
    search = head.search("lasting", 1000, "stub")
    try:
        wait("no trial", lambda: cluster.count("lasting", "finished"))
        for asked, asker in ((head, worker), (worker, head)):
            ports = listening(asked)
            assert len(ports) > 3
            assert asker.python("faults_knock.py", asked.address, *map(str, ports)) == ""
        # The same questions with an answer: the dashboard's, to who sits before it.
        assert dashboard.poll() is None
        wait("no dashboard", lambda: "8080/" in head.python("faults_knock.py", "127.0.0.1", "8080"))
        assert 8080 not in listening(head)
        assert 8265 not in listening(head)
        assert cluster.server.port in listening(head)
        asks = f"import psycopg; psycopg.connect('host={head.address} port={cluster.server.port}"
        refused = subprocess.run(
            [*worker.within, sys.executable, "-c", f"{asks} user=nas dbname=postgres')"],
            capture_output=True,
            text=True,
        )
        assert "no password supplied" in refused.stderr
    finally:
        for process in (search, dashboard):
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.slow
def test_a_link_that_is_down_for_a_while_costs_no_result(cluster: Cluster) -> None:
    head, worker = cluster.head, cluster.worker
    search = head.search("parted", TRIALS, "stub")
    try:
        wait("no trial", lambda: cluster.count("parted", "finished") > 2)
        worker.run("ip", "link", "set", "veth0", "down")
        time.sleep(DOWN)
        assert search.poll() is None
        assert cluster.count("parted", "finished") < TRIALS
        worker.run("ip", "link", "set", "veth0", "up")
        search.wait(180)
    finally:
        search.kill()
    assert search.returncode == 0, head.log.read_text()[-3000:]
    assert head.python("faults_checker.py", "parted", str(TRIALS)).startswith("parted: 24 trials")
    wait("candidates are left", lambda: not candidates(worker))


def candidates(host: Host) -> list[int]:
    found = []
    for pid in host.pids():
        with contextlib.suppress(OSError):
            if b"nas.workers.run import serve" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
