"""The tables of the record. ``migrations/`` creates them; a test holds the two equal.

All names begin with ``nas_``, the version table of the migrations too, because Optuna keeps its
own ``studies``, ``trials`` and ``alembic_version`` in the same database. Times are seconds since
1970 by the database's clock, so that leases compare as numbers on both databases. Nothing is ever
deleted.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

HEAD = "0005"  # the newest revision under migrations/versions
VERSION_TABLE = "nas_alembic_version"

TrialState = Literal[
    "running", "waiting", "paused", "finished", "stopped", "failed", "reused", "refused"
]
"""``running``: has a running attempt. ``waiting``: its last attempt was lost, or it has had none
yet; Store.claim starts one. ``paused``: at a rung, until Store.promote. ``stopped``: ended at a
rung. ``reused``: has the result of an earlier trial. ``refused``: not trained, as its latency
exceeded a bound."""

ENDED: tuple[TrialState, ...] = ("finished", "stopped", "failed", "reused", "refused")
EVALUATED: tuple[TrialState, ...] = ("finished", "reused")  # with a full evaluation

AttemptState = Literal["running", "finished", "failed", "lost"]
"""``failed``: through the candidate's own fault. ``lost``: the worker died or the lease expired."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# SQLite generates keys only for the type INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")

studies = Table(
    "nas_studies",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", String(512), nullable=False, unique=True),
    Column("space", Text, nullable=False),
    Column("space_text", Text, nullable=False),
    Column("objectives", JSON, nullable=False),  # [[name, "max" or "min"], ...], in order
    Column("constraints", JSON, nullable=False),
    Column("recipe", JSON, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("sampler", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("settings", JSON, nullable=False),
    # The images' identity (nas.data.identity), a description for people, and their directory.
    Column("images", Text, nullable=False, server_default=text("''")),
    Column("images_about", Text, nullable=False, server_default=text("''")),
    Column("directory", Text, nullable=False, server_default=text("''")),
    Column("created", Double, nullable=False),
    # The parameters' distributions, as JSON {name: text}. Stored per study: they were two thirds of
    # a trial's row, and most of what is read on start.
    Column("domains", Text, nullable=False, server_default=text("'{}'")),
    # Trial numbers given out. Not count(*): begin() must cost the same at trial 10,000 as at 1.
    Column("numbers", Integer, nullable=False),
)

trials = Table(
    "nas_trials",
    metadata,
    Column("id", Key, primary_key=True),
    Column("study_id", ForeignKey(studies.c.id), nullable=False),
    Column("number", Integer, nullable=False),
    Column("ask", String(32), nullable=False, unique=True),  # see Store.begin
    Column("state", String(16), nullable=False),
    Column("sampled", JSON, nullable=False),
    Column("distributions", JSON, nullable=False),  # where they differ from the study's domains
    Column("pattern", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("params", BigInteger, nullable=False),
    Column("macs", BigInteger, nullable=False),
    Column("recipe", JSON, nullable=False),
    Column("job_key", String(64), nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("rungs", JSON),  # [[epochs, accuracy], ...] of the rungs it reached
    Column("accuracy", Double),
    Column("latency_ms", Double),  # as an evaluator returned it, without a device
    Column("latency_device", Text),  # see nas_latencies
    Column("metrics", JSON, nullable=False),
    Column("failure", String(32)),
    Column("reason", Text),
    Column("seconds", Double),
    Column("device", Text),
    Column("model", Text),  # the file or URL of its weights, while they are kept
    Column("created", Double, nullable=False),
    Column("finished", Double),
    Column("reused_from", ForeignKey("nas_trials.id")),
    UniqueConstraint("study_id", "number"),
    Index("ix_nas_trials_reuse", "fingerprint", "job_key"),
    Index("ix_nas_trials_state", "study_id", "state", "number"),
)

attempts = Table(
    "nas_attempts",
    metadata,
    Column("token", String(32), primary_key=True),
    Column("trial_id", ForeignKey(trials.c.id), nullable=False),
    Column("number", Integer, nullable=False),
    Column("driver", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("started", Double, nullable=False),
    Column("ended", Double),
    Column("failure", String(32)),
    Column("reason", Text),
    UniqueConstraint("trial_id", "number"),
    # Guarantees that no trial has two running attempts.
    Index(
        "ix_nas_attempts_running",
        "trial_id",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
)

# A latency belongs to an architecture on a device, not to an evaluation: however often and by
# whatever recipe a network was trained, it has one latency per device, runtime and batch: the first
# one measured, unless it is measured again on purpose.
latencies = Table(
    "nas_latencies",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("device", Text, primary_key=True),
    Column("runtime", String(32), primary_key=True),
    Column("batch", Integer, primary_key=True, autoincrement=False),
    Column("ms", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("measured", Double, nullable=False),
    Column("busy", Double),  # fraction of the CPU that other processes used meanwhile
    Column("peak_bytes", BigInteger),  # peak memory of one inference
)

# The users' names of devices. ``device`` is the device's fingerprint.
devices = Table(
    "nas_devices",
    metadata,
    Column("device", Text, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("threads", Integer, nullable=False),
    Column("about", JSON, nullable=False),  # cpu, clock, versions
    Index("ix_nas_devices_name", "name"),
)

# Networks exported to be timed elsewhere, against which the returned latencies are checked.
packs = Table(
    "nas_packs",
    metadata,
    Column("pack", String(64), primary_key=True),
    Column("study_id", ForeignKey(studies.c.id), nullable=False),
    Column("networks", JSON, nullable=False),  # [{fingerprint, trial, file, sha256}, ...]
    Column("made", Double, nullable=False),
)

# Latencies of pieces of networks, from which those of other networks are predicted.
profiles = Table(
    "nas_profiles",
    metadata,
    Column("device", Text, primary_key=True),
    Column("runtime", String(32), primary_key=True),
    Column("batch", Integer, primary_key=True, autoincrement=False),
    Column("profile", JSON, nullable=False),  # see nas.driver.profiles
    Column("made", Double, nullable=False),
)

# One row per trial, not per epoch: a curve is written once, with the result, and read whole; 5,000
# trials of 100 epochs make 5,000 rows instead of 500,000. Not a column of the trials, because
# resuming reads every trial but no curve.
curves = Table(
    "nas_curves",
    metadata,
    Column("trial_id", ForeignKey(trials.c.id), primary_key=True, autoincrement=False),
    Column("epochs", JSON, nullable=False),  # [[epoch, train_loss, accuracy, seconds], ...]
)


class now(FunctionElement[float]):
    """The database's clock: seconds since 1970."""

    inherit_cache = True
    type = Double()


@compiles(now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    # now() would return the start of the transaction.
    return "extract(epoch from clock_timestamp())::double precision"
