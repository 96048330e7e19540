"""Installed from its wheel, in an empty directory, everything works as from the checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is under version control, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no checkout: the wheel is built from what git lists")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "-w", folder, folder / "source"], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, which finds its dependencies where these tests do."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # A path file, not PYTHONPATH: behind the environment's own packages, and Ray's workers, too.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [python, *arguments], cwd=folder, env=kept, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_tests_of_the_wheel_run_its_own_code(python: Path, tmp_path: Path) -> None:
    code = "import nas, nas.workers; print(nas.__file__, nas.workers.__path__[0])"
    for path in run(python, tmp_path, "-c", code).split():
        assert Path(path).is_relative_to(python.parent.parent)


def test_every_module_and_shipped_file_travels(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for package in ("nas", "workers", "search_spaces"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".yaml", ".mako", ".typed"):
                told = path.relative_to(ROOT)
                assert str(told if package == "nas" else Path("nas", told)) in inside
    # The package alone: a person's own workers.py is theirs.
    assert {name.partition("/")[0] for name in inside if ".dist-info" not in name} == {"nas"}


def test_the_wheel_ships_the_spaces_and_the_zoo(python: Path, tmp_path: Path) -> None:
    listed = run(python, tmp_path, "-m", "nas.cli", "space", "ls")
    shipped = {path.stem for path in (ROOT / "search_spaces").rglob("*.yaml")}
    assert shipped <= set(listed.split())
    assert "11,689,512 params" in run(python, tmp_path, "-m", "nas.cli", "show", "resnet18")


@pytest.mark.slow
def test_a_search_from_the_wheel_runs_and_resumes(python: Path, tmp_path: Path) -> None:
    search = ("-m", "nas.cli", "search", "--space", "lenet_like", "--epochs", "1")
    run(python, tmp_path, *search, "--trials", "1", "--workers", "0")
    run(python, tmp_path, *search, "--trials", "2", "--workers", "1")  # in a worker of Ray
    trials = run(python, tmp_path, "-m", "nas.cli", "trials", "ls", "-f", "csv")
    assert trials.count("finished") == 2
