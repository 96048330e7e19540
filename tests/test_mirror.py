"""The dashboard's copy equals the record, with each trial once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import logging
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from postgres import Server
from sqlalchemy import event, text
from waiting import PATIENCE, wait

from nas.errors import RecordGone, StoreError, StudyError
from nas.job import Failure, Latency, Outcome, Result
from nas.report.dashboard import serve
from nas.store import Ask, Store, Study, StudyRow, open_store
from nas.store import mirror as mirrors
from nas.store.mirror import Mirror

DOMAINS = {
    "M": IntDistribution(2, 4),
    "RESIDUAL.width[1]": IntDistribution(16, 256, log=True),
    "BLOCK[1]": CategoricalDistribution(["PLAIN", "DENSE"]),
    "POOL?": CategoricalDistribution([True, False]),
    "recipe.lr": FloatDistribution(1e-3, 1.0, log=True),
}
SAMPLED = {
    "M": 3,
    "RESIDUAL.width[1]": 48,
    "BLOCK[1]": "DENSE",
    "POOL?": False,
    "recipe.lr": 0.125,
}
ASK = Ask(
    sampled=SAMPLED,
    distributions={name: distribution_to_json(domain) for name, domain in DOMAINS.items()},
    pattern="INPUT -> [DENSE]*3 -> FC",
    fingerprint="f",
    params=5_000_000_000,
    macs=7_000_000_000,
    epochs=20,
)
STUDY = Study(
    name="digits",
    space="mixed",
    objectives=(("accuracy", "max"), ("params", "min"), ("latency_ms", "min")),
)
RESULT = Result(
    metrics={"accuracy": 0.75},
    latency=Latency(ms=1.5, low=1.0, high=2.0, device="cpu/4"),
    seconds=2.5,
    device="gpu/h",
)
DIVERGED = Failure(kind="diverged", reason="the loss is NaN after epoch 2", seconds=1.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/a {{record}} 100%.db"
    else:
        server: Server = request.getfixturevalue("postgres")
        url = server.database()
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def study(store: Store) -> StudyRow:
    return store.open_study(STUDY)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def run(store: Store, study: StudyRow, *outcomes: Outcome) -> None:
    claims = store.begin(study, [ASK] * len(outcomes))
    for claim, outcome in zip(claims, outcomes, strict=True):
        assert store.finish(claim.token, outcome)


def url_of(store: Store) -> str:
    # Optuna formats the URL that it gets.
    text = store.engine.url.render_as_string(hide_password=False)
    return text.replace("{", "{{").replace("}", "}}")


def copied(store: Store) -> optuna.Study:
    return optuna.load_study(study_name="digits", storage=url_of(store))


def numbers(store: Store) -> list[int]:
    return sorted(trial.user_attrs["trial"] for trial in copied(store).trials)


def test_a_record_that_was_moved_is_not_made_anew_by_its_copy(tmp_path: Path) -> None:
    file = tmp_path / "{a} b#.db"
    with contextlib.closing(open_store(f"sqlite:///{file}")) as store:
        study = store.open_study(STUDY)
        mirror = Mirror(store, study)
        file.rename(tmp_path / "moved.db")
        with pytest.raises(RecordGone, match="no longer there"):
            mirror.catch_up()
        assert not file.exists()
        (tmp_path / "moved.db").rename(file)
        run(store, study, RESULT)
        assert mirror.catch_up() == 1
    names = sqlite3.connect(file).execute("SELECT study_name FROM studies").fetchall()
    assert names == [("digits",)]


@pytest.mark.parametrize("there", [False, True])
def test_a_dashboard_for_which_nothing_may_be_written_says_so(
    postgres: Server, there: bool, tmp_path: Path
) -> None:
    """Before the first copy, and where its tables are there."""
    url = postgres.database()
    database = url.rpartition("/")[2]
    with contextlib.closing(open_store(url)) as owner:
        study = owner.open_study(STUDY)
        if there:
            Mirror(owner, study).catch_up()
        run(owner, study, RESULT)
    reader = f"reader_{database}"
    postgres.sql(f"CREATE ROLE {reader} LOGIN PASSWORD 'x'")
    postgres.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}", database)
    place = f"postgresql+psycopg://{reader}:x@127.0.0.1:{postgres.port}/{database}"
    with (
        contextlib.closing(open_store(place, create=False)) as store,
        pytest.raises(StoreError, match=r"copies of the studies, .* cannot be written: permi"),
    ):
        serve(store, host="127.0.0.1", port=0, artifacts=tmp_path / "drawings")


def test_the_copy_is_what_optuna_itself_would_write(store: Store, study: StudyRow) -> None:
    run(store, study, RESULT)
    assert Mirror(store, study).catch_up() == 1
    [trial] = copied(store).trials
    row = store.trial(study.id, 0)
    assert row.finished is not None
    template = create_trial(
        params=SAMPLED,
        distributions=DOMAINS,
        values=[0.75, 5e9, 1.5],
        user_attrs={
            "trial": 0,
            "pattern": ASK.pattern,
            "fingerprint": "f",
            "params": 5_000_000_000,
            "macs": 7_000_000_000,
            "accuracy": 0.75,
            "latency_ms": 1.5,
            "device": "cpu/4",
            "epochs": 20,
            "seconds": 2.5,
        },
    )
    template.datetime_start = datetime.datetime.fromtimestamp(row.created)
    template.datetime_complete = datetime.datetime.fromtimestamp(row.finished)
    reference = optuna.create_study(
        storage=url_of(store), study_name="by hand", directions=["maximize", "minimize", "minimize"]
    )
    reference.add_trial(template)
    [expected] = reference.trials
    expected._trial_id = trial._trial_id
    assert trial == expected
    assert copied(store).directions == reference.directions
    assert copied(store).metric_names == ["accuracy", "params", "latency_ms"]
    assert [best.number for best in copied(store).best_trials] == [0]


def test_the_copys_trials_have_optunas_states_and_attributes(store: Store, study: StudyRow) -> None:
    unmeasured = dataclasses.replace(RESULT, latency=None)
    run(store, study, DIVERGED, RESULT, unmeasured)
    store.begin(study, [ASK])
    assert Mirror(store, study).catch_up() == 3
    failed, whole, partial, running = copied(store).trials
    assert running.state == TrialState.RUNNING
    assert running.datetime_complete is None
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["failure"] == "diverged"
    assert failed.user_attrs["reason"] == DIVERGED.reason
    assert failed.params == SAMPLED
    assert whole.state == TrialState.COMPLETE
    # A value short of what the directions ask for: Optuna could not rank it.
    assert partial.state == TrialState.FAIL
    assert partial.user_attrs["accuracy"] == 0.75


def test_a_trial_has_its_number_in_whatever_order_they_end(store: Store, study: StudyRow) -> None:
    """Whoever sees trial 1 there asks for trial 1 here."""
    mirror, late = Mirror(store, study), Mirror(store, study)
    first, second, third = store.begin(study, [ASK] * 3)
    seen = []
    for claim in (second, third, first):
        store.finish(claim.token, RESULT)
        assert mirror.catch_up() == 1
        assert mirror.catch_up() == 0
        seen.append([trial.state.name[0] for trial in copied(store).trials])
        fourth = store.begin(study, [ASK])
    assert seen == [["R", "C", "R"], ["R", "C", "C", "R"], ["C", "C", "C", "R", "R"]]
    assert late.catch_up() == 0  # another driver's, that finds it all
    store.finish(fourth[0].token, DIVERGED)
    assert late.catch_up() == 1
    assert mirror.catch_up() == 0
    trials = copied(store).trials
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.user_attrs["trial"] for trial in trials] == list(range(6))
    assert [trial.state.name[0] for trial in trials] == ["C", "C", "C", "R", "R", "F"]
    assert trials[3].params == SAMPLED


def test_the_page_that_reads_what_is_new_has_all_in_the_end(store: Store, study: StudyRow) -> None:
    """As the dashboard's page does: from the first trial on that ran when it read last."""
    mirror = Mirror(store, study)
    page: list[FrozenTrial] = []

    def read() -> None:
        mirror.catch_up()
        running = (n for n, trial in enumerate(page) if trial.state == TrialState.RUNNING)
        after = next(running, len(page))
        page[after:] = copied(store).trials[after:]

    claims = store.begin(study, [ASK] * 4)
    read()
    for place in (2, 0, 3):
        store.finish(claims[place].token, RESULT)
        claims += store.begin(study, [ASK])
        read()
    for claim in (claims[1], *claims[4:]):
        store.finish(claim.token, DIVERGED)
        read()
    assert page == copied(store).trials
    assert not any(trial.state == TrialState.RUNNING for trial in page)


def test_the_copy_is_made_again_from_nothing(store: Store, study: StudyRow) -> None:
    run(store, study, *[RESULT] * 5)
    Mirror(store, study).catch_up()
    assert Mirror(store, study).catch_up() == 0
    optuna.delete_study(study_name="digits", storage=url_of(store))
    assert Mirror(store, study).catch_up() == 5
    assert numbers(store) == [0, 1, 2, 3, 4]


def test_a_deleted_copy_is_made_again_under_way(store: Store, study: StudyRow) -> None:
    mirror = Mirror(store, study)
    run(store, study, RESULT)
    mirror.catch_up()
    optuna.delete_study(study_name="digits", storage=url_of(store))
    run(store, study, RESULT)
    with pytest.raises(StudyError, match="deleted"):
        mirror.catch_up()
    assert mirror.catch_up() == 2
    assert numbers(store) == [0, 1]


def test_a_break_between_two_batches_loses_and_repeats_nothing(
    store: Store, study: StudyRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "BATCH", 2)
    run(store, study, *[RESULT] * 7)
    mirror, insert, calls = Mirror(store, study), Mirror._insert, []

    def breaks_at_the_third(self: Mirror, connection: object, missing: object) -> None:
        insert(self, connection, missing)  # type: ignore[arg-type]
        calls.append(missing)
        if len(calls) == 3:
            raise OSError("the disk is full")

    monkeypatch.setattr(Mirror, "_insert", breaks_at_the_third)
    with pytest.raises(OSError, match="full"):
        mirror.catch_up()
    assert numbers(store) == [0, 1, 2, 3]
    assert mirror.catch_up() == 3
    assert numbers(store) == list(range(7))


def test_drivers_that_start_at_once_make_optunas_tables_once(store: Store) -> None:
    together = threading.Barrier(6)

    def start(_: int) -> optuna.storages.RDBStorage:
        together.wait()
        return mirrors.optuna_storage(store)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for storage in pool.map(start, range(6)):
            assert storage.get_all_studies() == []


def test_two_drivers_copy_each_trial_once(
    store: Store, study: StudyRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "BATCH", 1)
    first, second = Mirror(store, study), Mirror(store, study)
    assert first.catch_up() + second.catch_up() == 0
    run(store, study, *[RESULT] * 40)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        copied_by = list(pool.map(Mirror.catch_up, [first, second]))
    assert sum(copied_by) == 40
    assert numbers(store) == list(range(40))
    assert [trial.number for trial in copied(store).trials] == list(range(40))


def test_the_thread_follows_and_closes_in_step(store: Store, study: StudyRow) -> None:
    mirror = Mirror(store, study).start()
    for _ in range(10):
        run(store, study, RESULT, DIVERGED)
        mirror.poke()
    assert mirror.close(PATIENCE)
    assert numbers(store) == list(range(20))


def test_a_locked_database_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(f"sqlite:///{tmp_path}/record.db")
    study = store.open_study(Study(name="digits", space="mixed", objectives=(("accuracy", "max"),)))
    run(store, study, RESULT)
    blocker = sqlite3.connect(tmp_path / "record.db", isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(1.0, blocker.execute, ["ROLLBACK"])
    timer.start()
    assert Mirror(store, study).start().close(PATIENCE)
    timer.join()
    blocker.close()
    assert numbers(store) == [0]
    assert caplog.text == ""
    store.close()


def test_a_failure_warns_once_and_is_made_good(
    store: Store,
    study: StudyRow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mirrors, "RETRY", 0.05)
    monkeypatch.setattr(mirrors, "PAUSE", 0.01)
    Mirror(store, study).catch_up()
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE trial_params RENAME param_value TO hidden"))
    run(store, study, RESULT)
    with caplog.at_level(logging.WARNING, "nas.store.mirror"):
        mirror = Mirror(store, study).start()
        wait("it failed and said so", lambda: caplog.records)
        run(store, study, RESULT)  # the search goes on
        with store.engine.begin() as connection:
            connection.execute(text("ALTER TABLE trial_params RENAME hidden TO param_value"))
        assert mirror.close(PATIENCE)
    [record] = [record for record in caplog.records if record.name == "nas.store.mirror"]
    assert "'digits' falls behind" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert numbers(store) == [0, 1]


@pytest.mark.parametrize("theirs", ["empty", "other directions", "trials", "marked"])
def test_a_study_of_the_users_own_is_left_alone(
    store: Store, study: StudyRow, caplog: pytest.LogCaptureFixture, theirs: str
) -> None:
    """Be it empty: its directions, its attributes and its trials are who made it's."""
    objectives = 2 if theirs == "other directions" else 3
    made = optuna.create_study(
        study_name="digits", storage=url_of(store), directions=["maximize"] * objectives
    )
    if theirs == "trials":
        made.add_trial(create_trial(values=[1.0, 2.0, 3.0]))
    if theirs == "marked":
        made.set_user_attr(mirrors.MARK, f"{study.id + 1}/{study.created}")
    before = made.trials, made.user_attrs, made.directions
    run(store, study, RESULT)
    assert not Mirror(store, study).start().close()
    assert "another origin" in caplog.text
    after = copied(store)
    assert (after.trials, after.user_attrs, after.directions) == before


def test_a_copy_that_had_no_mark_yet_is_known_and_stays(
    store: Store, study: StudyRow, caplog: pytest.LogCaptureFixture
) -> None:
    run(store, study, RESULT)
    Mirror(store, study).catch_up()
    with store.engine.begin() as connection:
        connection.execute(text(f"DELETE FROM study_user_attributes WHERE key = '{mirrors.MARK}'"))
    with pytest.raises(StudyError, match="an older version of nas made") as told:
        Mirror(store, study).catch_up()
    assert numbers(store) == [0]
    [command] = re.findall("`(.*)`", str(told.value))
    arguments = shlex.split(command)
    arguments[-1] = url_of(store)  # where its password is not shown
    code = "from optuna.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *arguments[1:]], check=True, capture_output=True)
    assert Mirror(store, study).catch_up() == 1
    assert numbers(store) == [0]


def test_the_dashboard_reads_the_record_once(store: Store, study: StudyRow, tmp_path: Path) -> None:
    from nas.report.dashboard import copied as prepared

    run(store, study, RESULT, DIVERGED, RESULT)
    told: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *now: told.append(now[2]))
    prepared(store, tmp_path)
    assert len([sql for sql in told if "FROM nas_trials" in sql]) == 1
    assert numbers(store) == [0, 1, 2]


def test_the_dashboard_shows_the_trial(store: Store, study: StudyRow) -> None:
    from optuna_dashboard import wsgi

    run(store, study, RESULT)
    Mirror(store, study).catch_up()
    optuna_study = copied(store)
    app = wsgi(optuna.storages.RDBStorage(url_of(store)))
    environ: dict[str, object] = {"PATH_INFO": f"/api/studies/{optuna_study._study_id}"}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda *_: None))
    shown = json.loads(body)
    [trial] = shown["trials"]
    attributes = {a["key"]: a["value"] for a in trial["user_attrs"]}
    assert attributes["pattern"] == ASK.pattern
    assert attributes["params"] == "5000000000"
    assert trial["values"] == [0.75, 5e9, 1.5]
    assert shown["objective_names"] == ["accuracy", "params", "latency_ms"]
