"""Mirrors a study as an Optuna study in the same database, for the Optuna dashboard.

Trials are inserted into Optuna's tables through its own models, many per transaction. Its public
``create_new_trial(template_trial=...)`` makes three queries per parameter: 23 ms for a trial of 25
parameters, all of it Python time taken from the driver's loop. This takes 1.7 ms for one trial and
0.25 ms for one of many, at 100 trials as at 5,000. A test checks that both give the same trial.

Trials have the same numbers in both. The dashboard's page reloads only the trials from the first
running one on, by their position in the list; so each trial is written when it begins, in the order
of the numbers, and stays running there until it ends.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import json
import logging
import math
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import TrialState
from sqlalchemy import Connection, Table, event, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from nas.errors import RecordGone, StudyError
from nas.failpoints import reach
from nas.metrics import METRICS, by_arithmetic
from nas.store import ENDED, Store, StudyRow, TrialRow
from nas.store.urls import file_of, shown

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 100  # trials per transaction, so that SQLite's write lock is held for at most 0.1 s
PAUSE = 0.5  # least seconds between two updates, however often poked
RETRY = 15.0  # seconds until the next update after a failed one
RACES = 20  # retries while other drivers create the same

MARK = "nas_record"  # user attribute of the Optuna study: the study of the record that it mirrors
SPACE = "nas_space"  # another: a digest of the space, and so of the trials' domains
SHOWN_ATTRIBUTES = ("space", "dataset", "sampler")  # of the study, copied as user attributes
AT_ONCE = ("trial", "baseline", "pattern", "fingerprint", *by_arithmetic())  # known at the start

STUDIES: Table = models.StudyModel.__table__
DIRECTIONS: Table = models.StudyDirectionModel.__table__
STUDY_ATTRIBUTES: Table = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM: Table = models.StudySystemAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
ATTRIBUTES: Table = models.TrialUserAttributeModel.__table__

_distribution = functools.lru_cache(maxsize=None)(optuna.distributions.json_to_distribution)


def optuna_storage(store: Store) -> RDBStorage:
    """Optuna's own tables in the record's database. Raises RecordGone where that was moved."""
    url, file = store.engine.url, file_of(store.engine.url)
    options: dict[str, Any] = {"connect_args": {"client_encoding": "utf8"}, "pool_pre_ping": True}
    if file is not None:
        with store.engine.begin():
            pass  # looks whether the record is still there
        options = {"connect_args": {"timeout": 60}}
        # mode=rw: where the record is gone by now, no other file takes its place.
        url = url.set(database=f"file:{quote(str(file.absolute()))}")
        url = url.update_query_dict({"mode": "rw", "uri": "true"})
    # Optuna passes the URL through str.format, so braces are doubled.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    storage = _raced(lambda: RDBStorage(text, engine_kwargs=options), DBAPIError)
    if file is not None:
        # As for the record (nas.store.connect): the copy need not be more durable.
        @event.listens_for(storage.engine, "connect")
        def _settings(connection: Any, _: object) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

        storage.engine.dispose()  # the open connection was made without the setting
    return storage


def _raced(create: Callable[[], T], error: type[DBAPIError]) -> T:
    """What ``create`` returns, called again while it raises the error of another driver that
    creates the same."""
    for _ in range(RACES):
        try:
            return create()
        except error:
            time.sleep(0.05)
    return create()


class Mirror:
    """Keeps the Optuna study of the same name up to date with ``study``, in a thread.

    The thread reads the record when poked. What it cannot write now it writes later, at the latest
    on the next start, when it compares the two and adds what is missing. Errors never reach the
    search; the first is logged as a warning.
    """

    def __init__(self, store: Store, study: StudyRow) -> None:
        self._store, self._study = store, study
        self._objectives = [name for name, _ in study.objectives]
        self._storage: RDBStorage | None = None
        self._copy = 0  # the Optuna study's id
        self._next = 0  # trials from this number on may be missing in the copy
        self._running: set[int] = set()  # below that, trials that had not ended
        self._thread = threading.Thread(target=self._follow, name="nas-mirror", daemon=True)
        self._poked = threading.Event()
        self._closing = threading.Event()
        self._failed = False

    def start(self) -> Mirror:
        """Starts the thread, which first copies the record as it is."""
        self._poked.set()
        self._thread.start()
        return self

    def poke(self) -> None:
        """Signals that the record has changed. Returns at once."""
        self._poked.set()

    def close(self, timeout: float = 10.0) -> bool:
        """Copies what is left, for up to ``timeout`` seconds; returns whether the copy is up to
        date. Copies nothing if never started."""
        if self._thread.ident is None:
            return False
        self._closing.set()
        self._poked.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._failed

    def catch_up(self, read: Sequence[TrialRow] | None = None) -> int:
        """Copies what is missing of the trials that began or ended; returns how many ended.
        ``read`` are all trials by number, if already read. For use without the thread.

        Raises StudyError where an Optuna study of this name was not made by this study, and
        whatever Optuna and SQLAlchemy raise.
        """
        try:
            rows = self._news() if read is None else iter(read)
            storage, copied = self._storage or self._open(), 0
            while batch := list(itertools.islice(rows, BATCH)):  # never all at once in memory
                with storage.engine.begin() as connection:
                    copied += self._copy_batch(connection, batch)
                    reach("copying")
                reach("copied")
                over = {row.number for row in batch if row.state in ENDED}
                self._running = self._running.union(row.number for row in batch) - over
                self._next = max(self._next, batch[-1].number + 1)
        except BaseException:
            # How much was copied is uncertain: the next update compares all trials.
            self._dispose()
            self._next, self._running = 0, set()
            raise
        return copied

    def _news(self) -> Iterator[TrialRow]:
        """The trials that have ended or begun since the last update."""
        study, running = self._study.id, self._running
        ended = self._store.trials(study, numbers=running, states=ENDED) if running else ()
        return itertools.chain(ended, self._store.trials(study, since=self._next))

    def _follow(self) -> None:
        while True:
            self._poked.wait(RETRY if self._failed else None)
            self._poked.clear()
            last = self._closing.is_set()
            try:
                self.catch_up()
                self._failed = False
            except Exception as error:
                if not self._failed and not isinstance(error, RecordGone):  # that ends the search
                    log.warning(
                        "the dashboard's copy of study %r falls behind (%s); the search goes on",
                        self._study.name,
                        (str(error) or type(error).__name__).splitlines()[0],
                    )
                self._failed = True
            if last:
                break
            self._closing.wait(PAUSE)
        self._dispose()

    def _dispose(self) -> None:
        if self._storage:
            self._storage.engine.dispose()
        self._storage = None

    def _open(self) -> RDBStorage:
        storage = optuna_storage(self._store)
        self._copy = _raced(lambda: self._find_copy(storage), IntegrityError)
        self._storage = storage
        return storage

    def _find_copy(self, storage: RDBStorage) -> int:
        """The id of the Optuna study that mirrors this one, created if there is none. Raises
        StudyError where one of that name has another origin: its owner may need it, even empty."""
        study = self._study
        directions = [_DIRECTION[direction] for _, direction in study.objectives]
        mark = f"{study.id}/{study.created}"
        try:
            copy = storage.get_study_id_from_name(study.name)
        except KeyError:
            return self._make_copy(storage, directions, mark)
        attributes = storage.get_study_user_attrs(copy)
        if attributes.get(MARK) != mark:
            raise self._in_the_way(attributes)
        same = storage.get_study_directions(copy) == directions
        if same and attributes.get(SPACE) == _digest(study):
            return copy
        # The objectives were changed before there were results, or the space was widened.
        storage.delete_study(copy)
        return self._make_copy(storage, directions, mark)

    def _in_the_way(self, attributes: Mapping[str, Any]) -> StudyError:
        """The error for another Optuna study of this name, with these attributes."""
        study = self._study
        if MARK not in attributes and all(
            attributes.get(name) == getattr(study, name) for name in SHOWN_ATTRIBUTES
        ):
            # It numbers trials differently, so it cannot be continued.
            return StudyError(
                f"the Optuna study {study.name!r} looks like a copy that an older version of nas "
                f"made: `optuna delete-study --study-name {shlex.quote(study.name)} --storage "
                f"{shlex.quote(shown(self._store.engine.url))}` has it made anew"
            )
        return StudyError(
            f"an Optuna study {study.name!r} of another origin is in the way and stays: "
            "to have this one in the dashboard, rename that, or search under another name"
        )

    def _make_copy(self, storage: RDBStorage, directions: list[StudyDirection], mark: str) -> int:
        """Creates the Optuna study with its mark in one transaction, so that no process ever sees
        it unmarked."""
        study = self._study
        attributes = {name: getattr(study, name) for name in SHOWN_ATTRIBUTES}
        attributes |= {MARK: mark, SPACE: _digest(study)}
        names = {_SYSTEM_ATTR_METRIC_NAMES: [name for name, _ in study.objectives]}
        made = insert(STUDIES).values(study_name=study.name).returning(STUDIES.c.study_id)
        with storage.engine.begin() as connection:
            copy = int(connection.scalars(made).one())
            for table, rows in (
                (DIRECTIONS, [{"objective": i, "direction": d} for i, d in enumerate(directions)]),
                (STUDY_ATTRIBUTES, _pairs(attributes)),
                (STUDY_SYSTEM, _pairs(names)),
            ):
                connection.execute(insert(table), [row | {"study_id": copy} for row in rows])
        reach("copy_made")
        return copy

    def _copy_batch(self, connection: Connection, rows: list[TrialRow]) -> int:
        """Writes what the copy lacks of these trials; returns how many ended. Their numbers ascend
        and include every trial in between that the copy lacks."""
        # A dummy update takes the study's lock (SQLite: the database's) before anything is read, so
        # that of two drivers' mirrors the second sees what the first has copied.
        mine = STUDIES.c.study_id == self._copy
        lock = update(STUDIES).where(mine).values(study_name=STUDIES.c.study_name)
        if not connection.execute(lock).rowcount:
            raise StudyError("the Optuna study was deleted: recreating it")
        written = select(TRIALS.c.number, TRIALS.c.trial_id, TRIALS.c.state).where(
            TRIALS.c.study_id == self._copy,
            TRIALS.c.number.between(rows[0].number, rows[-1].number),
        )
        known = {number: (key, state) for number, key, state in connection.execute(written)}
        missing = [row for row in rows if row.number not in known]
        over = [
            (known[row.number][0], row)
            for row in rows
            if row.state in ENDED
            and row.number in known
            and known[row.number][1] is TrialState.RUNNING
        ]
        if missing:
            self._insert(connection, missing)
        if over:
            self._end(connection, over)
        return len(over) + sum(row.state in ENDED for row in missing)

    def _insert(self, connection: Connection, missing: list[TrialRow]) -> None:
        rows = [self._columns(trial) | {"study_id": self._copy, "number": trial.number,
                "datetime_start": _utc(trial.created)} for trial in missing]  # fmt: skip
        made = insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
        copies = list(zip(connection.scalars(made, rows).all(), missing, strict=True))
        _write(connection, PARAMS, [(_params(trial), key) for key, trial in copies])
        _write(connection, ATTRIBUTES, [(_attributes(trial, True), key) for key, trial in copies])
        ended = [(key, trial) for key, trial in copies if trial.state in ENDED]
        self._write_results(connection, ended)

    def _end(self, connection: Connection, over: list[tuple[int, TrialRow]]) -> None:
        for key, trial in over:
            ended = update(TRIALS).where(TRIALS.c.trial_id == key).values(self._columns(trial))
            connection.execute(ended)
        self._write_results(connection, over)

    def _write_results(self, connection: Connection, over: list[tuple[int, TrialRow]]) -> None:
        """Writes the values and attributes of trials that ended."""
        _write(connection, VALUES, [(_values(trial, self._objectives), key) for key, trial in over])
        _write(connection, ATTRIBUTES, [(_attributes(trial, False), key) for key, trial in over])

    def _columns(self, trial: TrialRow) -> dict[str, Any]:
        """A trial's state, and the time when it ended."""
        if trial.state not in ENDED:
            return {"state": TrialState.RUNNING, "datetime_complete": None}
        ended = trial.finished or trial.created
        return {"state": _state(trial, self._objectives), "datetime_complete": _utc(ended)}


def _digest(study: StudyRow) -> str:
    return hashlib.sha256(study.space_text.encode()).hexdigest()[:16]


_DIRECTION: Mapping[str, StudyDirection] = {
    "max": StudyDirection.MAXIMIZE,
    "min": StudyDirection.MINIMIZE,
}


def _write(
    connection: Connection, table: Table, lists: list[tuple[list[dict[str, Any]], int]]
) -> None:
    rows = [row | {"trial_id": key} for listed, key in lists for row in listed]
    if rows:
        connection.execute(insert(table), rows)


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _state(trial: TrialRow, objectives: list[str]) -> TrialState:
    if trial.state in ("stopped", "refused"):
        return TrialState.PRUNED
    whole = trial.state != "failed" and all(math.isfinite(trial.value(o)) for o in objectives)
    return TrialState.COMPLETE if whole else TrialState.FAIL


def _params(trial: TrialRow) -> list[dict[str, Any]]:
    def internal(name: str) -> float:
        distribution: BaseDistribution = _distribution(trial.distributions[name])
        return distribution.to_internal_repr(trial.sampled[name])

    return [
        {
            "param_name": name,
            "param_value": internal(name),
            "distribution_json": trial.distributions[name],
        }
        for name in trial.distributions
    ]


def _values(trial: TrialRow, objectives: list[str]) -> list[dict[str, Any]]:
    if _state(trial, objectives) is not TrialState.COMPLETE:
        return []
    finite = models.TrialValueModel.TrialValueType.FINITE
    values = map(trial.value, objectives)
    return [
        {"objective": place, "value": value, "value_type": finite}
        for place, value in zip(itertools.count(), values, strict=False)
    ]


def _attributes(trial: TrialRow, at_once: bool) -> list[dict[str, Any]]:
    """The user attributes of a trial that are known ``at_once``, or else only when it has ended;
    unknown ones are left out."""
    every = {
        "trial": trial.number,
        "baseline": trial.baseline,
        "pattern": trial.pattern,
        "fingerprint": trial.fingerprint,
        **{name: _counted(trial.value(name)) for name in METRICS if METRICS[name].arithmetic},
        **{name: trial.value(name) for name in METRICS if not METRICS[name].arithmetic},
        "device": trial.latency_device or trial.device,
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "failure": trial.failure,
        "reason": trial.reason,
    }
    known = {k: v for k, v in every.items() if v not in (None, "") and v == v}  # NaN is not itself
    return _pairs({key: known[key] for key in known if (key in AT_ONCE) == at_once})


def _counted(value: float) -> float:
    """An integer if it is one: the dashboard would show a count with a decimal point."""
    return int(value) if value.is_integer() else value


def _utc(seconds: float) -> datetime.datetime:
    """A time as in Optuna's tables: UTC without a time zone."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)
