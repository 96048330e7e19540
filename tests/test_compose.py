"""docker-compose.yml and Dockerfile match what the code offers; benchmarks/compose.py runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.cli import main
from nas.store.urls import parse
from nas.version import __version__

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = [name for name in SERVICES if name != "postgres"]


def test_the_image_is_made_of_what_is_here() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [base] = [line.split(":")[1] for line in lines if line.startswith("FROM python:")]
    assert f">={base[:4]}" == PROJECT["requires-python"]
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    # A link that leads to what is not copied would leave a hole in the package.
    links = [path.resolve() for path in (ROOT / "nas").iterdir() if path.is_symlink()]
    assert {path.relative_to(ROOT).parts[0] for path in links} <= set(copied)
    [extras] = [told for line in lines for told in re.findall(r'"\.\[(.*?)\]"', line)]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert {SERVICES[name]["image"] for name in OURS} == {f"nas-patterns:{__version__}"}


@pytest.mark.parametrize("name", ["dashboard", "search"])
def test_the_services_start_commands_and_options_that_exist(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = SERVICES[name]
    text = " ".join([told["command"]] if "command" in told else told["entrypoint"])
    found = re.search(r"\bnas (\w+)((?: --\w+ \S+)*)", text)
    assert found
    monkeypatch.setattr("sys.argv", ["nas", found[1], "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main()
    offered = capsys.readouterr().out
    options = re.findall(r"--\w+", found[2])
    assert options
    assert [option for option in options if option not in offered] == []


def test_its_database_is_the_one_that_it_makes() -> None:
    made = SERVICES["postgres"]["environment"]
    for name in OURS:
        url = parse(SERVICES[name]["environment"]["NAS_STORAGE"])
        assert (url.username, url.host, url.database) == (
            made["POSTGRES_USER"],
            "postgres",
            made["POSTGRES_DB"],
        )
        assert url.password is None  # by PGPASSWORD, which no command shows
        assert SERVICES[name]["environment"]["PGPASSWORD"] == made["POSTGRES_PASSWORD"]


def test_podman_compose_reads_the_file() -> None:
    if not shutil.which("podman-compose"):
        pytest.skip("needs podman and podman-compose (PyPI)")
    environ = {"NAS_DB_PASSWORD": "p", "RAY_AUTH_TOKEN": "t"}
    path = {"PATH": f"{Path(shutil.which('podman-compose') or '').parent}:/usr/bin:/usr/sbin"}
    told = subprocess.run(
        ["podman-compose", "-f", str(COMPOSE), "config"],
        env=environ | path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(yaml.safe_load(told.stdout)["services"]) >= set(SERVICES) - {"search"}
