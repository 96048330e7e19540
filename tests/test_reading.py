"""Read-only commands need no write permission, and leave the record unchanged."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from postgres import Server
from sqlalchemy import text

from nas.artifacts import path_part
from nas.cli.record import artifacts_dir
from nas.errors import NoRecord, StoreError
from nas.job import Result
from nas.store import Ask, Study, open_store
from nas.store.tables import VERSION_TABLE

NAS = [sys.executable, "-c", "from nas.cli import main; main()"]
ASK = Ask(pattern="INPUT(1, 8, 8) -> FC(2)", fingerprint="f", params=130, macs=128, epochs=1)
WITHIN = ["unshare", "--mount", "sh", "-c"]
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && shift && "$@"'

mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="needs a mount namespace",
)


def fill(url: str) -> None:
    store = open_store(url)
    study = store.open_study(Study(name="s", space="s", objectives=(("accuracy", "max"),)))
    [claim] = store.begin(study, [ASK])
    store.finish(claim.token, Result(metrics={"accuracy": 0.5}))
    store.close()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("nas.db*")
    }


COMMANDS = ("status", "pareto", "trials ls", "trials show 0", "export 0 -f pattern")


@mounts
def test_commands_that_read_work_on_a_read_only_record(tmp_path: Path) -> None:
    """A mounted backup: neither the file nor one beside it can be written."""
    fill(f"sqlite:///{tmp_path}/nas.db")
    before = digests(tmp_path)
    for command in COMMANDS:
        told = subprocess.run(
            [*WITHIN, READ_ONLY, "sh", str(tmp_path), *NAS, *command.split()],
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        assert "50.00 %" in told.stdout or "FC(" in told.stdout
        assert told.stderr == ""
    assert digests(tmp_path) == before


@mounts
def test_what_is_in_the_log_of_a_backup_is_not_left_out_unsaid(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nas.db"
    fill(url)
    writing = open_store(url)  # an open connection keeps its log
    writing.open_study(Study(name="t", space="s", objectives=(("accuracy", "max"),)))
    assert (tmp_path / "nas.db-wal").stat().st_size
    backup = tmp_path / "backup"
    backup.mkdir()
    for name in ("nas.db", "nas.db-wal"):
        (backup / name).write_bytes((tmp_path / name).read_bytes())
    writing.close()
    told = subprocess.run(
        [*WITHIN, READ_ONLY, "sh", str(backup), *NAS, "status"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2
    assert "nas.db-wal is beside it: copy both to another folder" in told.stderr


def test_they_read_beside_a_search_what_it_has_just_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nas.db"
    fill(url)
    writing, reading = open_store(url), open_store(url, write=False)
    writing.open_study(Study(name="t", space="s", objectives=(("accuracy", "max"),)))
    assert [study.name for study in reading.studies()] == ["s", "t"]
    with pytest.raises(StoreError, match="readonly"):
        reading.open_study(Study(name="u", space="s", objectives=(("accuracy", "max"),)))
    reading.close()
    writing.close()


def test_an_older_schema_is_not_brought_up_to_date_unasked(either: str) -> None:
    fill(either)
    store = open_store(either)
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0000'"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.store.schema._check_version", lambda engine, version: None)
        with pytest.raises(StoreError, match=r"'0000', older than .*`nas db upgrade`"):
            open_store(either, write=False)
    with pytest.raises(StoreError, match="'0000', which no version of nas has"):
        open_store(either, write=False)
    store.close()


def test_a_damaged_record_is_told_with_what_it_lacks(either: str) -> None:
    fill(either)
    store = open_store(either)
    named = either.rsplit("/", 1)[1]
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE nas_trials RENAME COLUMN seconds TO s"))
    row = store.studies()[0]
    with pytest.raises(StoreError, match=rf"{named}.*seconds.*: the record is damaged"):
        list(store.trials(row.id))
    for sql, told in {
        "DROP TABLE nas_profiles": r"lacks the table nas_profiles: it is damaged",
        "ALTER TABLE nas_curves RENAME TO c": r"lacks the tables nas_curves, nas_profiles: it is",
        f"DELETE FROM {VERSION_TABLE}": rf"no revision of their schema: {VERSION_TABLE} is damaged",
        f"ALTER TABLE {VERSION_TABLE} RENAME COLUMN version_num TO v": "and no revision of their",
        f"DROP TABLE {VERSION_TABLE}": rf"no revision of their schema: {VERSION_TABLE} is damaged",
    }.items():
        with store.engine.begin() as connection:
            connection.execute(text(sql))
        for how in ({"write": False}, {"create": False}, {}):
            with pytest.raises(StoreError, match=rf"{named}.* {told}") as error:
                open_store(either, **how)
            assert not isinstance(error.value, NoRecord)
    store.close()


def test_a_server_is_asked_for_a_connection_that_cannot_write(postgres: Server) -> None:
    url = postgres.database()
    fill(url)
    for asked in (url, f"{url}?options=-c%20statement_timeout%3D5000"):
        store = open_store(asked, write=False)
        assert [study.name for study in store.studies()] == ["s"]
        with pytest.raises(StoreError, match="read-only transaction"):
            store.open_study(Study(name="t", space="s", objectives=(("accuracy", "max"),)))
        with store.engine.connect() as connection:
            limit = connection.execute(text("SHOW statement_timeout")).scalar()
        assert limit == ("5s" if "statement" in asked else "0")
        store.close()


def test_names_survive_a_database_in_sql_ascii(postgres: Server) -> None:
    name = postgres.database().rpartition("/")[2] + "_ascii"
    create = f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    postgres.sql(f"{create} TEMPLATE template0")
    url = postgres.database().rpartition("/")[0] + f"/{name}"
    store = open_store(url)
    study = Study(name="größe", space="s", objectives=(("accuracy", "max"),))
    assert store.open_study(study).name == "größe"
    assert [found.name for found in store.studies()] == ["größe"]
    from nas.store.mirror import Mirror

    assert Mirror(store, store.studies()[0]).catch_up() == 0
    store.close()


@pytest.mark.parametrize("url", ["sqlite:///nas.db?timeout=abc", "sqlite:///nas.db?nonsense=1"])
@pytest.mark.parametrize("write", [True, False])
def test_a_setting_that_is_none_is_a_sentence(
    url: str, write: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill("sqlite:///nas.db")
    with pytest.raises(StoreError, match=r"sqlite:///.*nas\.db"):
        open_store(url, write=write)


def test_checkpoints_are_where_the_database_is(tmp_path: Path) -> None:
    folder = tmp_path / "50% off"
    assert artifacts_dir("", f"sqlite:///{tmp_path}/50%25 off/x.db") == str(folder / "artifacts")
    assert artifacts_dir("", f"sqlite:///{folder}/x.db?timeout=3") == str(folder / "artifacts")


@pytest.mark.parametrize("name", ["..", ".", "../..", "a/b", "ü" * 512, "....", "a" * 512, " "])
def test_any_name_is_one_part_of_a_path(name: str, tmp_path: Path) -> None:
    made = tmp_path / "artifacts" / path_part(name)
    made.mkdir(parents=True)
    assert [entry.name for entry in (tmp_path / "artifacts").iterdir()] == [path_part(name)]
    assert os.path.dirname(os.path.normpath(made)) == str(tmp_path / "artifacts")
    assert path_part("a" * 511) != path_part("a" * 512)
