"""Sanitised text on a terminal, in a CSV, on a page; URLs without passwords; odd terminals."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from nas.cli import main
from nas.errors import StoreError
from nas.store import Ask, Study, open_store
from nas.store.urls import parse, said
from nas.text import cell, counted, markdown, printable, shown_file, shown_url, size_text

SECRET = "Zebra%41-9"
NAS = [sys.executable, "-c", "from nas.cli import main; main()"]


def run(*command: str) -> int:
    """The status with which the command line ends, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nas", *command])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


# -- files ----------------------------------------------------------------------------------------


def test_a_file_below_the_working_directory_is_shown_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for file, shown in (
        (str(here / "artifacts" / "m.safetensors"), "artifacts/m.safetensors"),
        (str(here / "..m"), "..m"),
        ("m", "m"),
        ("s3://models/m", "s3://models/m"),
        *((str(there), str(there)) for there in (tmp_path / "m", here / "-m", tmp_path / "here2")),
    ):
        assert shown_file(file) == shown
    here.rmdir()
    assert shown_file(str(tmp_path / "m")) == str(tmp_path / "m")


# -- URLs -----------------------------------------------------------------------------------------

URLS = [
    "postgresql://u:{}@h/d",
    "postgresql+psycopg://u:{}@h:5432/d",
    "POSTGRESQL://u:{}@h",
    "postgresql:/u:{}@h/d",
    "postgresql:u:{}@h/d",
    "postgresql//u:{}@h/d",
    "postgres ://u:{}@h/d",
    " postgresql://u:{}@h/d",
    "u:{}@h/d",
    "//u:{}@h/d",
    "mysql://:{}@h",
    "postgresql://u:a@{}@h/d",
    "postgresql://u:a/{}@h/d",
    "postgresql://u:a?{}@h/d",
    "postgresql://u:a@b?{}@h/d",
    "postgresql://@?:{}@/",
    "postgresql://u@x?a=1:{}@h/d",
    "postgresql://u:a:{}@h/d",
    "postgresql://u:{}",
    "postgresql://u:{}/d",
    "postgresql://u:{}@[::1",
    "postgresql://u:{}@h:port/d",
    "postgresql://u@h/d?password={}",
    "postgresql://u@h/d?x=1&PassWord={}&y=2",
    "postgresql://u@h/d?pass%77ord={}",
    "postgresql://u@h/d?sslpassword={}",
    "postgresql:///d?host=/run&user=u&password={}",
    "postgresql://u:x@h/d?options=@&password={}",
    "postgresql://u@h/d?options=-c%20password={}",
    "postgresql://u@h/d?sslmode=require&options=-c%20my.thing%3D{}&x=1",
    "postgresql://u@h/d?options=-c my.thing={} -c x=1",
    "postgresql://u@h/d?o%70tions=-c%20my.thing%3D{}",
    "host=h options='-c my.thing={}' user=u",
    "postgresql://h/d;password={}",
    "host=h user=u password={}",
    "host=h password = '{} x' user=u",
    "sqlite:///x.db?password={}",
    "s3://bucket/x?secret_access_key={}&token=1",
    "http://h/?api_key={}",
]


@pytest.mark.parametrize("form", URLS)
def test_no_password_is_shown_wherever_it_stands(form: str) -> None:
    shown = shown_url(form.format(SECRET))
    assert "Zebra" not in shown
    assert "***" in shown
    with contextlib.suppress(StoreError):
        parse(form.format(SECRET))
        return
    with pytest.raises(StoreError) as refused:
        parse(form.format(SECRET))
    assert "Zebra" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///nas.db",
        "sqlite:////a/b:c@d/x.db",
        "postgresql://u@h:5432/d?sslmode=require&passfile=/home/u/.pgpass",
        "postgresql://h1:5432,h2:5433/d",
        "postgresql://[::1]:5432/d",
        "http://127.0.0.1:8265",
        ":memory:",
        " sqlite:///x.db",
        "",
    ],
)
def test_what_is_no_password_is_shown(url: str) -> None:
    assert shown_url(url) == url


@pytest.mark.parametrize(
    ("url", "message", "shown"),
    [
        ("postgresql://u:p@h/d", "port 5432 failed: accepting TCP/IP?", None),
        ("postgresql://u:port@h/d", "port 5432: ports", "*** 5432: ports"),
        ("postgresql://u:Zebra@h/d", 'for "Zebra" of Zebras', 'for "***" of Zebras'),
        ("postgresql://u:Ze%2Fbra@h/d", "xZe/brax", "x***x"),
        ("postgresql://u:p@h/d", 'in "postgresql://u:p@h/d" x', 'in "postgresql://u:***@h/d" x'),
        ("postgresql://u:p@h/d", "user=u password=p port=1", "user=u password=*** port=1"),
        ("postgresql://h/d?password=Zebra", "a Zebra", "a ***"),
        ("postgresql://h/d?options=-c%20my.token%3DZebra", "a Zebra", "a ***"),
    ],
)
def test_a_drivers_message_is_told_without_passwords_and_with_its_words(
    url: str, message: str, shown: str | None
) -> None:
    error = DBAPIError("SELECT 1", None, Exception(message))
    assert said(error, parse(url)) == (shown or message)


@given(st.text(), st.text(), st.text())
def test_any_text_in_a_url_is_shown_without_its_password(user: str, host: str, rest: str) -> None:
    shown = shown_url(f"postgresql://{user}:Zebra@{host}/{rest}")
    assert "Zebra" not in shown or "Zebra" in user + host + rest
    assert printable(shown) == shown


COMMANDS = [
    ["status"],
    ["pareto"],
    ["trials", "ls"],
    ["dashboard"],
    ["db", "upgrade"],
    ["export", "3"],
    ["report"],
    ["search", "--space", "lenet_like", "--workers", "0"],
]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:1/d?connect_timeout=2",
        f"postgresql://me@127.0.0.1:1/d?connect_timeout=2&password={SECRET}",
        f"postgresql://me@127.0.0.1:1/d?connect_timeout=2&options=-c%20my.thing%3D{SECRET}",
        f"postgresql:/me:{SECRET}@h/d",
    ],
)
def test_no_command_prints_a_password(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.store.connect.RESTART_SECONDS", 0.1)
    for command in COMMANDS:
        assert run(*command, "--storage", url) != 0
        told = "".join(capsys.readouterr())
        assert told.startswith("nas: "), command
        assert "Zebra" not in told, command


# -- text -----------------------------------------------------------------------------------------

NASTY = "[/x] [bold]b[/] :smile: \x1b]0;title\x07\x1b[2J\x9b31m \u202e\r=1+1"


def test_nothing_is_left_that_a_terminal_obeys() -> None:
    assert printable(NASTY) == "[/x] [bold]b[/] :smile: ]0;title[2J31m =1+1"
    assert printable("a\tb\n") == "a\tb\n"
    assert printable("caf\udce9.png \udcc3\udcbc") == r"caf\xe9.png ü"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-x", "'-x"),
        ("@SUM", "'@SUM"),
        (" =1", "' =1"),
        ("\x1b=1", "'=1"),
        ("\t=1", "'\t=1"),
        ("CONV -> RELU", "CONV -> RELU"),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay(value: object, shown: object) -> None:
    assert cell(value) == shown


def test_markdown_has_no_markup_of_others() -> None:
    assert markdown("a_b <img src=x>\n# c | [d](e) `f`") == (
        r"a\_b \<img src=x\> \# c \| \[d\]\(e\) \`f\`"
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record whose names and reasons are another's."""
    folder = tmp_path_factory.mktemp("nasty")
    store = open_store(f"sqlite:///{folder}/nas.db")
    study = store.open_study(
        Study(name="=[/x]:smile:", space="[/y]\x1b[2J", objectives=(("[/z]", "min"),))
    )
    ask = Ask(pattern="INPUT(1, 8, 8) -> FC(2)", fingerprint="f", params=130, macs=128, epochs=1)
    [claim] = store.begin(study, [ask])
    from nas.job import Failure, Result

    store.finish(claim.token, Result(metrics={"[/z]": 0.5, "=\x1b[2Jm": -1.0}, device="=cpu"))
    [claim] = store.begin(study, [ask])
    store.finish(claim.token, Failure(kind="error", reason=f"=no [/luck] {NASTY}"))
    store.close()
    (folder / "nasty.yaml").write_text(
        'name: nasty\nabout: "[/x] \\e[2J\\e]0;t\\a :smile:"\npattern: INPUT -> FC\n'
    )
    return folder


PAGES = [
    ["status"],
    ["pareto"],
    ["trials", "ls"],
    ["trials", "show", "0"],
    ["trials", "show", "1"],
    ["trials", "ls", "--state", "failed"],
    ["show", "nasty.yaml"],
    ["space", "show", "nasty.yaml"],
    ["search", "--space", "lenet_like", "--study", "[/x]", "--dry-run"],
    ["search", "--space", "lenet_like", "--objective", "[/x]:min", "--dry-run"],
    ["search", "--space", "nasty.yaml", "--study", "\x1b[2J", "--dry-run"],
]


BAD = ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e", "Traceback")


def test_no_page_obeys_the_text_of_others(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(record)
    for command in PAGES:
        assert run(*command) in (0, 2), command  # done, or refused with a sentence
        told = "".join(capsys.readouterr())
        assert [bad for bad in BAD if bad in told] == [], command
    run("status")
    assert "=[/x]:smile:" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["trials", "show", "1"], ["show", "nasty.yaml"]])
def test_a_terminal_is_given_styles_and_nothing_else(record: Path, command: list[str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*NAS, *command],
        cwd=record,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # a terminal's end
        while more := os.read(ours, 1 << 16):
            told += more
    os.close(ours)
    assert process.wait() == 0, told
    assert b"\x1b[1m" in told
    assert [bad for bad in BAD if bad.encode() in told] == []


def test_csv_and_json_of_the_text_of_others(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(record)
    assert run("trials", "ls", "-f", "csv") == 0
    made = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(made)))
    assert rows[0]["study"] == "'=[/x]:smile:"
    assert rows[0]["device"] == "'=cpu"
    assert rows[0]["'=[2Jm"] == "-1.0"
    assert rows[1]["reason"].startswith("'=no [/luck]")
    assert "\x1b" not in made
    assert run("trials", "ls", "-f", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["study"] == "=[/x]:smile:"  # a machine's: nothing is changed


# -- terminals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_is_not_utf_8(encoding: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [*NAS, "show", "resnet18"],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert told.returncode == 0, told.stderr
    assert b"11.69M" in told.stdout or b"11,689,512" in told.stdout


# Each way out with each buffering, and with each command.
@pytest.mark.parametrize(
    ("command", "buffered"), [("space ls", ""), ("space sample lenet_like", "1")]
)
def test_standard_output_may_be_full_or_closed(command: str, buffered: str, tmp_path: Path) -> None:
    said = {
        ">/dev/full": (1, b"nas: standard output: No space left on device\n"),
        ">&-": (0, b""),
        "| true": (None, b""),
    }
    for where, (status, stderr) in said.items():
        shell = ["bash", "-c", f'"$@" {where}']
        told = subprocess.run(
            [*shell, "bash", *NAS, *command.split()],
            cwd=tmp_path,
            capture_output=True,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
        )
        assert told.stderr == stderr
        assert status is None or told.returncode == status


@pytest.mark.parametrize("command", ["status", "train linear", "data check images"])
def test_in_a_working_directory_that_was_removed_a_command_says_so(
    command: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = ["bash", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "bash"]
    told = subprocess.run([*shell, *NAS, *command.split()], capture_output=True, text=True)
    where = f"nas: the working directory {gone} is no longer there: change to another\n"
    assert (told.returncode, told.stderr) == (1, where)


# -- numbers --------------------------------------------------------------------------------------

GREAT, DIGITS = "9" * 25, "9" * 4400


@pytest.mark.parametrize(
    "command",
    [
        ["show", "INPUT(1, 8, 8) -> [FC(10)]*0"],
        ["show", "INPUT(1, 8, 8) -> DROPOUT(0)"],
        ["show", f"INPUT(1, 8, 8) -> FC({DIGITS})"],
        ["show", f"INPUT(1, 8, 8) -> [FC(2)]*{DIGITS}"],
        ["export", "0 -> \u00b2"],
        ["export", DIGITS],
        ["trials", "show", GREAT],
        ["trials", "show", "-1"],
        ["search", "--space", "lenet_like", "--epochs", GREAT],
        ["search", "--space", "lenet_like", "--trials", GREAT],
        ["search", "--space", "lenet_like", "--trials", DIGITS],
        ["search", "--space", "lenet_like", "--size", GREAT, "--dry-run"],
        ["audit", "--space", "lenet_like", "--epochs", GREAT],
        ["train", "lenet5", "--epochs", GREAT],
    ],
    ids=lambda command: " ".join(command)[:40],
)
def test_a_number_that_nobody_means_is_a_sentence(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*command) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith(("nas: ", "Error: "))
    assert len(told.err) < 10_000
    assert not (tmp_path / "nas.db").exists()


def test_one_of_a_kind_is_no_several() -> None:
    assert [counted(n, "network") for n in (0, 1, 1234)] == [
        "0 networks",
        "1 network",
        "1,234 networks",
    ]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]


def test_a_size_has_the_unit_that_shows_it() -> None:
    """Before, a file of 57,656 bytes was "0.06 MB"."""
    sizes = {
        0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1_000: "1.0 kB", 57_656: "57.7 kB",
        999_949: "999.9 kB", 999_950: "1.00 MB", 2_400_000: "2.40 MB", 999_996_000: "1.00 GB",
        1_234_567_890_123: "1,234.57 GB",
    }  # fmt: skip
    assert {size: size_text(size) for size in sizes} == sizes
