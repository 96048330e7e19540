"""A private PostgreSQL server for tests: its own data, a random port on loopback, a password.

``Server`` is a plain context manager, so that benchmarks can use it as well; the fixture
``postgres`` is one server for a session, and the databases that a test asks it for end with it.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from waiting import free_ports


def binaries() -> Path | None:
    """The directory of the newest server programs (Debian keeps them off PATH); None without."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    found = [path for path in found if (path / "postgres").exists()]
    return max(
        found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))], default=None
    )


class Server:
    """A running server. Its password holds every character that a URL has to escape.

    ``listen`` is the address that it listens on; ``within`` begins the commands that start it, such
    as ``ip netns exec NAME``: a file is its socket for who is not within.
    """

    user = "nas"
    password = "p@ss:w/rd %{}?#&=+" + secrets.token_hex(4)

    def __init__(self, listen: str = "127.0.0.1", within: Sequence[str] = ()) -> None:
        found = binaries()
        if found is None:
            raise FileNotFoundError("PostgreSQL is not installed")
        self.bin = found
        self.home = Path(tempfile.mkdtemp(prefix="nas-postgres-"))
        (self.port,) = free_ports(1)
        self._databases: list[str] = []
        # The server refuses to run as root.
        other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.run_as = [*within, *other]
        password = self.home / "password"
        password.write_text(self.password)
        if other:
            shutil.chown(self.home, "postgres", "postgres")
            shutil.chown(password, "postgres", "postgres")
        password.chmod(0o600)
        self._call(
            "initdb",
            f"--pgdata={self.home}/data",
            f"--username={self.user}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        settings = (
            f"port={self.port}\nlisten_addresses='{listen}'\n"
            f"unix_socket_directories='{self.home}'\n"
            # Processes die in these tests, the machine does not: nothing needs to reach the disk.
            "fsync=off\nshared_buffers=32MB\n"
        )
        with (self.home / "data/postgresql.auto.conf").open("a") as conf:
            conf.write(settings)
        with (self.home / "data/pg_hba.conf").open("a") as conf:
            conf.write("host all all all scram-sha-256\n")

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not waited for: one that nobody buries would look alive for a minute.
        self._call("pg_ctl", "stop", "-W", "-m", "immediate", f"-D{self.home}/data")
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        self._call("pg_ctl", "start", "-w", f"-D{self.home}/data", f"-l{self.home}/log")

    def stop(self, mode: str = "fast") -> None:
        """``immediate`` is a crash: the next start recovers from the log."""
        self._call("pg_ctl", "stop", "-w", "-m", mode, f"-D{self.home}/data")

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}")
        self._databases.append(name)
        secret = quote(self.password, safe="")
        return f"postgresql+psycopg://{self.user}:{secret}@127.0.0.1:{self.port}/{name}"

    def drop_databases(self) -> None:
        """Those that were asked for, with every connection to them. An engine keeps its own until
        it is collected: those of some hundred tests are more than a server takes."""
        while self._databases:
            self.sql(f"DROP DATABASE IF EXISTS {self._databases.pop()} WITH (FORCE)")

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows that it gives, if any."""
        import psycopg

        with psycopg.connect(
            host=str(self.home),
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _call(self, program: str, *arguments: str) -> None:
        # pg_ctl leaves the server its standard streams: a pipe here would never end.
        with (self.home / "calls").open("ab") as log:
            subprocess.run(
                [*self.run_as, str(self.bin / program), *arguments],
                check=True,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
            )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip(f"PostgreSQL does not run as {getpass.getuser()} and there is no runuser")
    with Server() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Server) -> Iterator[Server]:
    yield postgres_server
    postgres_server.drop_databases()
