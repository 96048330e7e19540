"""What the Optuna dashboard reads: an Optuna study that follows the record, in the same database.

The trials go into Optuna's tables by its own models, many to a transaction. Its public way,
``create_new_trial(template_trial=...)``, asks the database three times for each parameter: 23 ms a
trial of 25 parameters, all of it Python that would be taken from the driver's loop. This takes 1.7
ms for one trial and 0.25 ms for one of many, at 100 trials as at 5,000. A test holds that both ways
give the same trial.

Optuna numbers trials as they end, because the dashboard's page reads only what is behind the last
trial that it knows. Our number is the user attribute ``trial``.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import logging
import math
import threading
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import TrialState
from sqlalchemy import Connection, Table, event, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from nas.errors import StudyError
from nas.failpoints import reach
from nas.metrics import METRICS
from nas.store import Store, StudyRow, TrialRow

log = logging.getLogger(__name__)

BATCH = 100  # trials to a transaction: SQLite's one write lock is held for 0.1 s at most
PAUSE = 0.5  # seconds between two looks at the record, however often poked
RETRY = 15.0  # seconds until the next look after one that failed
RACES = 5  # drivers that may make the tables at once, each before one more try

MARK = "record"  # user attribute of the Optuna study: the id of the study it follows

STUDIES: Table = models.StudyModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
ATTRIBUTES: Table = models.TrialUserAttributeModel.__table__

_distribution = functools.lru_cache(maxsize=None)(optuna.distributions.json_to_distribution)


def optuna_storage(store: Store) -> RDBStorage:
    """Optuna's own tables in the record's database."""
    url = store.engine.url
    sqlite = url.get_backend_name() == "sqlite"
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    # Optuna formats the URL: braces stand for themselves only when doubled.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    for tries_left in range(RACES, -1, -1):
        try:
            storage = RDBStorage(text, engine_kwargs=options)
            break
        except DBAPIError:  # another driver made the tables between its look and its own making
            if not tries_left:
                raise
    if sqlite:
        # As in the record: the copy need not be safer than what it is made from.
        @event.listens_for(storage.engine, "connect")
        def _settings(connection: Any, _: object) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

        storage.engine.dispose()  # the connection that made the tables has not heard of it
    return storage


class Mirror:
    """Keeps the Optuna study of the same name in step with ``study``, in a thread.

    The thread looks at the record when poked. What it cannot write now it writes later, on the
    next start at the latest: it compares the two and adds what is missing. Nothing that goes
    wrong here reaches the search; the first failure is logged as a warning.
    """

    def __init__(self, store: Store, study: StudyRow) -> None:
        self._store, self._study = store, study
        self._storage: RDBStorage | None = None
        self._copy = 0  # the Optuna study's id
        self._seen = 0  # Optuna's trials up to this id are in _known
        self._known: set[int] = set()  # our numbers of the trials that the copy has
        self._news = store.endings(study.id)
        self._thread = threading.Thread(target=self._follow, name="nas-mirror", daemon=True)
        self._poked = threading.Event()
        self._closing = threading.Event()
        self._failed = False

    def start(self) -> Mirror:
        """Begins to follow; the record as it stands is copied first."""
        self._poked.set()
        self._thread.start()
        return self

    def poke(self) -> None:
        """Says that trials ended. Returns at once."""
        self._poked.set()

    def close(self, timeout: float = 10.0) -> bool:
        """Copies what is left, for up to ``timeout`` seconds; whether the copy is in step. One that
        was never started copies nothing."""
        if self._thread.ident is None:
            return False
        self._closing.set()
        self._poked.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._failed

    def catch_up(self) -> int:
        """Copies the trials that ended and are missing; how many. For use without a thread.

        Raises StudyError where an Optuna study of this name belongs to something else, and
        whatever Optuna and SQLAlchemy raise.
        """
        try:
            ended = next(self._news)
            storage = self._storage or self._open()
            copied = 0
            for start in range(0, len(ended), BATCH):
                with storage.engine.begin() as connection:
                    copied += self._copy_batch(connection, ended[start : start + BATCH])
                    reach("copying")
                reach("copied")
        except BaseException:
            # Nothing is taken for copied that may not be: the next time begins with a comparison.
            self._news = self._store.endings(self._study.id)
            self._dispose()
            self._seen, self._known = 0, set()
            raise
        return copied

    def _follow(self) -> None:
        while True:
            self._poked.wait(RETRY if self._failed else None)
            self._poked.clear()
            last = self._closing.is_set()
            try:
                self.catch_up()
                self._failed = False
            except Exception as error:
                if not self._failed:
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
        self._copy = self._find_copy(storage)
        self._storage = storage
        return storage

    def _find_copy(self, storage: RDBStorage) -> int:
        study = self._study
        try:
            copy = storage.get_study_id_from_name(study.name)
        except KeyError:
            directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
            copy = storage.create_new_study(
                [directions[d] for _, d in study.objectives], study.name
            )
            reach("copy_made")
        mark = storage.get_study_user_attrs(copy).get(MARK)
        if mark != study.id:
            if mark is not None or storage.get_n_trials(copy):
                raise StudyError(f"an Optuna study {study.name!r} of another origin is in the way")
            names = [name for name, _ in study.objectives]
            storage.set_study_system_attr(copy, _SYSTEM_ATTR_METRIC_NAMES, names)
            for key in ("space", "dataset", "sampler"):
                storage.set_study_user_attr(copy, key, getattr(study, key))
            storage.set_study_user_attr(copy, MARK, study.id)
        return copy

    def _copy_batch(self, connection: Connection, ended: list[TrialRow]) -> int:
        # A write, so that it holds the study's lock (SQLite: the database's) before it reads: of
        # two drivers' mirrors the second then sees what the first has copied.
        mine = STUDIES.c.study_id == self._copy
        lock = update(STUDIES).where(mine).values(study_name=STUDIES.c.study_name)
        if not connection.execute(lock).rowcount:
            raise StudyError("its Optuna study was deleted")
        written = (
            select(TRIALS.c.trial_id, ATTRIBUTES.c.value_json)
            .join(ATTRIBUTES, ATTRIBUTES.c.trial_id == TRIALS.c.trial_id)
            .where(TRIALS.c.study_id == self._copy, TRIALS.c.trial_id > self._seen)
            .where(ATTRIBUTES.c.key == "trial")
            .order_by(TRIALS.c.trial_id)
        )
        for trial_id, number in connection.execute(written):
            self._seen = trial_id
            self._known.add(json.loads(number))
        missing = [trial for trial in ended if trial.number not in self._known]
        if missing:
            self._insert(connection, missing)
        return len(missing)

    def _insert(self, connection: Connection, missing: list[TrialRow]) -> None:
        count = select(func.count()).where(TRIALS.c.study_id == self._copy)
        number = connection.scalar(count) or 0
        objectives = [name for name, _ in self._study.objectives]
        rows = [
            {
                "study_id": self._copy,
                "number": number + place,
                "state": _state(trial, objectives),
                "datetime_start": _utc(trial.created),
                "datetime_complete": _utc(trial.finished or trial.created),
            }
            for place, trial in enumerate(missing)
        ]
        made = insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
        copies = list(zip(connection.scalars(made, rows).all(), missing, strict=True))
        parts = {
            PARAMS: [(_params(trial), key) for key, trial in copies],
            VALUES: [(_values(trial, objectives), key) for key, trial in copies],
            ATTRIBUTES: [(_attributes(trial), key) for key, trial in copies],
        }
        for table, lists in parts.items():
            told = [row | {"trial_id": key} for listed, key in lists for row in listed]
            if told:
                connection.execute(insert(table), told)


def _state(trial: TrialRow, objectives: list[str]) -> TrialState:
    if trial.state == "stopped":
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


def _attributes(trial: TrialRow) -> list[dict[str, Any]]:
    """What the dashboard shows beside the values; what is not known is left out."""
    told = {
        "trial": trial.number,
        "baseline": trial.baseline,
        "pattern": trial.pattern,
        "fingerprint": trial.fingerprint,
        **{name: trial.value(name) for name in METRICS},
        "device": trial.latency_device or trial.device,
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "failure": trial.failure,
        "reason": trial.reason,
    }
    known = {k: v for k, v in told.items() if v not in (None, "") and v == v}  # NaN is not itself
    return [{"key": key, "value_json": json.dumps(value)} for key, value in known.items()]


def _utc(seconds: float) -> datetime.datetime:
    """As Optuna's tables hold times: UTC, without saying so."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)
