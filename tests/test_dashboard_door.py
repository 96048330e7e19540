"""Who the dashboard answers, and what it shows where a study is somebody else's. No browser."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from postgres import Server
from waiting import PATIENCE, free_ports, wait

from nas.job import Result
from nas.store import Ask, Study, open_store

NAS = [sys.executable, "-c", "from nas.cli import main; main()"]
ASK = Ask(pattern="INPUT(1, 8, 8) -> FC(2)", fingerprint="f", params=130, macs=128, epochs=1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A port, and a folder whose record has two studies: in the way of one is a person's own."""
    folder = tmp_path_factory.mktemp("site")
    url = f"sqlite:///{folder}/nas.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name="theirs", storage=url, directions=["minimize"])
    store = open_store(url)
    for name in ("theirs", "ours"):
        study = store.open_study(Study(name=name, space="s", objectives=(("accuracy", "max"),)))
        [claim] = store.begin(study, [ASK])
        store.finish(claim.token, Result(metrics={"accuracy": 0.5}))
    store.close()
    [port] = free_ports(1)
    told = ["dashboard", "--port", str(port), "--allow-host", "Lab.example", "--storage", url]
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen([*NAS, *told], cwd=folder, stderr=stderr)
    wait("no dashboard", lambda: b"nas: http" in (folder / "stderr").read_bytes())
    yield port, folder
    process.kill()
    process.wait()


def ask(port: int, method: str = "GET", path: str = "/api/studies", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{}", 200),
        ("localhost:{}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{}", 200),
        ("192.0.2.7:{}", 200),  # an address is no name: none can be rebound
        ("lab.example:{}", 200),
        ("evil.example:{}", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:{}", 403),
        ("evil.example:{}\t", 403),
        ("", 403),
    ],
)
def test_the_dashboard_answers_only_to_names_of_this_machine(
    site: tuple[int, Path], host: str, status: int
) -> None:
    assert ask(site[0], Host=host.format(site[0])) == status


def test_a_page_from_elsewhere_deletes_nothing(site: tuple[int, Path]) -> None:
    port, folder = site
    here = f"127.0.0.1:{port}"
    for origin in (
        "http://evil.example",
        "null",
        f"http://evil.example:{port}",
        "http://127.0.0.1",
    ):
        assert ask(port, "DELETE", "/api/studies/1", Host=here, Origin=origin) == 403
    assert ask(port, "DELETE", "/api/studies/1", Host=f"evil.example:{port}") == 403
    storage = f"sqlite:///{folder}/nas.db"
    assert sorted(optuna.get_all_study_names(storage)) == ["ours", "theirs"]
    assert ask(port, Host=here, Origin=f"http://{here}") == 200


def test_a_study_in_the_way_hides_that_one_alone_and_is_told(site: tuple[int, Path]) -> None:
    folder = site[1]
    storage = f"sqlite:///{folder}/nas.db"
    assert len(optuna.load_study(study_name="ours", storage=storage).trials) == 1
    theirs = optuna.load_study(study_name="theirs", storage=storage)
    assert (theirs.trials, theirs.user_attrs) == ([], {})
    assert theirs.direction == optuna.study.StudyDirection.MINIMIZE
    told = (folder / "stderr").read_text()
    assert "study theirs is not shown: an Optuna study 'theirs' of another origin" in told


def test_a_study_may_be_opened_first_and_no_folder_stands_beside_the_record(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/nas.db"
    store = open_store(url)
    store.open_study(Study(name="first", space="s", objectives=(("accuracy", "max"),)))
    second = store.open_study(Study(name="a study", space="s", objectives=(("accuracy", "max"),)))
    store.close()
    told = [*NAS, "dashboard", "--port", "0", "--storage", url, "--study"]
    done = subprocess.run([*told, "nobody"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nobody" in done.stderr
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen([*told, second.name], cwd=tmp_path, stderr=stderr)
    try:
        page = b"/dashboard/studies/2 (Ctrl-C to stop)"
        wait("no dashboard", lambda: page in (tmp_path / "stderr").read_bytes())
    finally:
        process.kill()
        process.wait()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"artifacts"}


def test_it_begins_where_a_server_has_no_record_yet(postgres: Server, tmp_path: Path) -> None:
    """As beside a cluster whose first search is still to come."""
    url = postgres.database()
    told = [*NAS, "dashboard", "--port", "0", "--storage", url]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(told, cwd=tmp_path, stderr=stderr)
    try:
        wait("no dashboard", lambda: b"nas: http" in (tmp_path / "stderr").read_bytes())
        assert open_store(url, write=False).studies() == []
    finally:
        process.kill()
        process.wait()
