"""What passes between the rooms: Recipe, Job, Result, Failure. Needs neither torch nor database."""

from nas.job.job import GIVEN_GPU, DataRef, Job
from nas.job.outcome import Epoch, Failure, FailureKind, Latency, Outcome, Report, Result
from nas.job.recipe import Recipe

__all__ = [
    "GIVEN_GPU",
    "DataRef",
    "Epoch",
    "Failure",
    "FailureKind",
    "Job",
    "Latency",
    "Outcome",
    "Recipe",
    "Report",
    "Result",
]
