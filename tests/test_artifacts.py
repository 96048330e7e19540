"""Checkpoints on disk and behind a URL: torn, set aside, resumed from, removed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from multiprocessing.context import ForkServerContext
from pathlib import Path

import fsspec
import pytest
from waiting import PATIENCE

from nas import artifacts, processes
from nas.errors import NasError
from nas.store import Store, open_store


@pytest.fixture(params=["a path", "file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "a folder" / "c"
    return str(path) if request.param == "a path" else f"{request.param}://{path}"


def test_what_another_user_planted_is_no_folder_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = os.getuid()
    planted = [tmp_path / f"nas-of-{user}-{number}" for number in range(100)]
    planted[0].write_text("a file")
    (tmp_path / "mine").mkdir(0o700)
    planted[1].symlink_to(tmp_path / "mine")
    planted[2].symlink_to(tmp_path / "nowhere")
    planted[3].mkdir()
    planted[3].chmod(0o777)
    planted[4].mkdir(0o700)
    if not user:
        os.chown(planted[4], 65534, 65534)
    first = processes.own_folder()
    assert first == planted[4 if user else 5]
    assert first.stat().st_mode & 0o777 == 0o700
    assert processes.own_folder() == first  # and so every process
    for path in planted:
        if not path.is_symlink() and not path.exists():
            path.touch()
    first.chmod(0o755)
    with pytest.raises(NasError, match="are not yours alone"):
        processes.own_folder()


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    file = tmp_path / "c"
    dying = (
        "import os, sys; from nas import artifacts, failpoints\n"
        "artifacts.reach = lambda name: os._exit(9) if name == 'checkpoint_half' else None\n"
        "print(artifacts.unfinished(sys.argv[1]), flush=True)\n"
        "artifacts.write(sys.argv[1], b'half and half')"
    )
    done = subprocess.run([sys.executable, "-c", dying, file], capture_output=True, text=True)
    left = Path(done.stdout.strip())
    assert (done.returncode, left.exists()) == (9, True), done.stderr
    kept = {
        "another's file": tmp_path / "cc.1.part",
        "alive, here": Path(str(left).replace(f"-{_pid(left)}.", f"-{os.getppid()}.")),
        "on another machine": tmp_path / f"c.0123abcd-{_pid(left)}.part",
        "of an older nas": tmp_path / f"c.{_pid(left)}.part",
    }
    for path in kept.values():
        path.write_bytes(b"half")
    artifacts.write(file, b"whole")
    assert file.read_bytes() == b"whole"
    assert [name for name, path in kept.items() if not path.exists()] == []
    assert not left.exists()
    for path in kept.values():
        os.utime(path, (0, 0))
    artifacts.replace(file, b"again")  # a person's file, too
    assert [name for name, path in kept.items() if path.exists()] == ["another's file"]


def _pid(part: Path) -> str:
    return part.name.rpartition("-")[2].removesuffix(".part")


def text(data: bytes) -> str:
    if not data.endswith(b"."):
        raise ValueError("its end is missing")
    return data.decode()


def names(location: str) -> set[str]:
    files, path = fsspec.core.url_to_fs(location)
    return {Path(found).name for found in files.ls(str(Path(path).parent), detail=False)}


def test_the_newest_whole_file_is_read_and_a_torn_one_set_aside(
    location: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert artifacts.newest(location, text) is None
    assert not artifacts.kept(location)
    artifacts.write(location, b"first.")
    artifacts.write(location, b"second.")
    artifacts.write(f"{location}2", b"another.")
    assert artifacts.newest(location, text) == "second."
    artifacts.write(location, b"third, to")
    assert artifacts.newest(location, text) == "second."
    assert "its end is missing" in caplog.text
    assert artifacts.newest(location, text) == "second."
    assert names(location) == {"c.torn", "c.previous", "c2"}
    assert artifacts.kept(location)
    artifacts.write(location, b"fourth.")
    artifacts.remove(location)
    assert names(location) == {"c2"}
    artifacts.remove(location)
    assert artifacts.newest(f"{location}2", text) == "another."


def test_what_cannot_be_written_leaves_what_was_there(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.write(location, b"first.")

    def full(name: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(artifacts, "reach", full)
    with pytest.raises(OSError, match="no space left"):
        artifacts.write(location, b"second.")
    assert names(location) == {"c"}
    assert artifacts.newest(location, text) == "first."


@pytest.mark.parametrize("url", ["nonesuch://bucket/x", "gdrive://x", "memory://x/*"])
def test_a_file_system_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(NasError, match=url.partition(":")[0]):
        artifacts.absolute(url)


# A search of real trainings that keeps a checkpoint an epoch, and a line for each epoch trained.
SEARCH = """
import contextlib, dataclasses, os
from faults_search import plan
from nas.driver import loop as search
from nas.training import train
from nas.store import open_store
from nas.workers import open_pool

os.environ["NAS_FAILPOINT"] = place
train.CHECKPOINT_SECONDS = 0
trained = train.train_epoch

def logged(training, *rest):
    with open(log, "a") as file:
        print(training.job.pattern, len(training.curve) + 1, sep="\\t", file=file)
    return trained(training, *rest)

train.train_epoch = logged
asked = plan("kept", 2, epochs=3)
real = dataclasses.replace(asked.job, evaluator="")
asked = dataclasses.replace(asked, artifacts=folder, job=real)
with contextlib.closing(open_store(url)) as store:
    search.search(asked, store, open_pool(0))
"""


@pytest.mark.slow
def test_a_search_behind_a_url_goes_on_where_it_was_killed(
    tmp_path: Path, fork: ForkServerContext
) -> None:
    url, folder, log = f"sqlite:///{tmp_path}/r.db", f"file://{tmp_path}/kept", tmp_path / "log"
    for place in ("checkpoint_between:2", "checkpoint_half:3", ""):
        told = {"url": url, "folder": folder, "log": str(log), "place": place}
        search = fork.Process(target=exec, args=(SEARCH, told))
        search.start()
        search.join(PATIENCE)
        assert search.exitcode == (-signal.SIGKILL if place else 0)
    epochs = Counter(log.read_text().splitlines())
    with contextlib.closing(open_store(url)) as store:
        rows = list(store.trials(store.find_study("kept").id))
        assert [row.state for row in rows] == ["finished"] * 2
        for row in rows:
            assert [epoch.epoch for epoch in store.curve(row.id)] == [1, 2, 3]
            assert {epochs[f"{row.pattern}\t{n}"] for n in range(1, 4)} <= {1, 2}
    assert sum(epochs.values()) <= 2 * 3 + 2  # one epoch was lost to each kill, at most
    # No checkpoint is left, and of the weights those of the front.
    left = {str(path) for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert left == {row.model.removeprefix("file://") for row in rows if row.model}


def test_a_database_is_never_written_over(tmp_path: Path, store: Store) -> None:
    """Whatever its name is: it may be the record of months."""
    record = tmp_path / "record.db"
    before = record.read_bytes()
    for path in (record, tmp_path / "linked.csv"):
        if path != record:
            path.symlink_to(record)
        with pytest.raises(NasError, match="is a database, perhaps a record: it is not written"):
            artifacts.replace(path, b"trial,accuracy")
    assert record.read_bytes() == before
