"""The record of a search, in SQLite or PostgreSQL. Imports neither torch nor optuna."""

from nas.store.record import Store, open_store
from nas.store.rows import (
    BASELINE,
    Ask,
    AttemptRow,
    Claim,
    Sampled,
    Study,
    StudyRow,
    TrialRow,
)
from nas.store.sameness import check_same, first_difference, widens
from nas.store.tables import ENDED, EVALUATED, TrialState

__all__ = [
    "BASELINE",
    "ENDED",
    "EVALUATED",
    "Ask",
    "AttemptRow",
    "Claim",
    "Sampled",
    "Store",
    "Study",
    "StudyRow",
    "TrialRow",
    "TrialState",
    "check_same",
    "first_difference",
    "open_store",
    "widens",
]
