"""What an evaluator may return, and that anything else becomes a Failure with a reason."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from nas.job import Epoch, Failure, Job, Latency, Outcome, Result
from nas.workers import answers, run


def answered(answer: Any, *reports: Any, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """What ``run`` makes of an evaluator that reports these and returns that."""

    def evaluate(job: Job, report: Any) -> Any:
        for told in reports:
            report(told)
        return answer() if callable(answer) else answer

    monkeypatch.setattr(run, "resolve", lambda job: evaluate)
    made = run.run(Job(pattern="FC(10)"), lambda epoch: None)
    assert type(made) in (Result, Failure)
    assert pickle.loads(pickle.dumps(made)) == made
    return made


def point(**told: Any) -> Epoch:
    plain: dict[str, Any] = {"epoch": 1, "train_loss": 1.0, "accuracy": 0.5, "seconds": 0.1}
    return Epoch(**plain | told)


def measured(**told: Any) -> Latency:
    return Latency(**{"ms": 1.0, "low": 0.9, "high": 1.1, "device": "cpu"} | told)


def result(**told: Any) -> Result:
    return Result(**{"metrics": {"accuracy": 0.5}} | told)


class Own(Result):
    """Unpicklable, as a class of a function's own is."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


class Name(str):
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


class Wordless:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


GOOD: dict[str, tuple[Any, Any]] = {
    "numpy's scalars": ({"accuracy": np.float32(0.5), "n": np.int64(3)}, {"accuracy": 0.5, "n": 3}),
    "a tensor of one": ({"accuracy": torch.tensor(0.5)}, {"accuracy": 0.5}),
    "other numbers": ({"a": Fraction(1, 2), "b": Decimal("0.25")}, {"a": 0.5, "b": 0.25}),
    "a result of its own class": (Own(metrics={"accuracy": 0.5}), {"accuracy": 0.5}),
    "names of its own class": ({Name("accuracy"): 0.5}, {"accuracy": 0.5}),
    "names of its own class in a result": (
        result(metrics={Name("accuracy"): np.float64(0.5)}),
        {"accuracy": 0.5},
    ),
}


@pytest.mark.parametrize("form", GOOD)
def test_numbers_of_any_library_become_plain_ones(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, metrics = GOOD[form]
    made = answered(given, monkeypatch=monkeypatch)
    assert isinstance(made, Result), made
    assert made.metrics == metrics
    for name, value in made.metrics.items():
        assert (type(name), type(value)) == (str, float)


def test_a_point_of_another_library_becomes_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told = point(epoch=np.int64(1), train_loss=np.float32(0.5), accuracy=torch.tensor(0.25))
    made = answered({"accuracy": 1}, told, monkeypatch=monkeypatch)
    assert isinstance(made, Result), made
    [plain] = made.curve
    assert plain == point(train_loss=0.5, accuracy=0.25)
    kinds = [type(v) for v in (plain.epoch, plain.train_loss, plain.accuracy)]
    assert kinds == [int, float, float]


def test_a_loss_in_the_curve_may_be_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    made = answered({"accuracy": 1}, point(train_loss=math.inf), monkeypatch=monkeypatch)
    assert made.curve[0].train_loss == math.inf


ODD: dict[str, tuple[Any, str]] = {
    "nothing": (None, "returned NoneType, not a dict"),
    "a number": (0.9, "returned float, not a dict"),
    "text for a number": (result(metrics={"accuracy": "x"}), "metric accuracy is 'x'"),
    "nothing for a number": ({"accuracy": None}, "metric accuracy is None"),
    "nan": (result(metrics={"accuracy": math.nan}), "must be finite"),
    "numpy's nan": ({"accuracy": np.float32("nan")}, "must be finite"),
    "infinite": ({"accuracy": -math.inf}, "must be finite"),
    "a truth": ({"accuracy": True}, "metric accuracy is True"),
    "numpy's truth": ({"accuracy": np.bool_(True)}, "must be a number"),
    "complex": ({"accuracy": np.complex128(1j)}, "must be a number"),
    "a long vector": ({"accuracy": np.zeros(10)}, "must be a number"),
    "percents": ({"accuracy": 91.3}, "accuracy is 91.3: must be a fraction from 0 to 1"),
    "less than none right": (result(metrics={"accuracy": -0.1}), "a fraction from 0 to 1"),
    "balanced percents": ({"accuracy": 0.5, "balanced_accuracy": 2.0}, "balanced_accuracy is 2:"),
    "done before it began": ({"latency_ms": -3}, "latency_ms is -3: must be 0 or more"),
    "fewer weights than none": ({"params": -1.0}, "params is -1: must be 0 or more"),
    "a little too great": ({"f1": 1.0000001e30}, "metric f1 is 1.0000001e+30: must be 1e+30"),
    "greater than anything": ({"f1": 1e308}, "metric f1 is 1e+308: must be 1e+30 at most"),
    "less than anything": ({"f1": -1e308}, "f1 is -1e+308: must be -1e+30 or more"),
    "a latency beyond all": (result(latency=measured(high=1e308)), "must be 1e+30 at most"),
    "too great": ({"accuracy": 10**400}, "must be a number"),
    "a name that is none": ({3: 0.5}, "metric 3: a metric's name must be text"),
    "an empty name": ({"": 0.5}, "printable"),
    "a name for the terminal": ({"\x1b[2Ja": 0.5}, "printable"),
    "a long name": ({"a" * 10_000: 0.5}, "printable"),
    "many metrics": (lambda: {f"m{i}": 0.5 for i in range(300_000)}, "more than 1000 metrics"),
    "metrics that are none": (result(metrics=[1, 2]), "must be a dict"),
    "wordless": (result(metrics={"accuracy": Wordless()}), "is a Wordless: must be a number"),
    "latency as text": (result(latency=measured(ms="fast")), "a Latency's ms is 'fast'"),
    "latency of nan": (result(latency=measured(high=math.nan)), "must be finite"),
    "no latency at all": (result(latency=measured(low=0, ms=0)), "Latency is 0 ms, from 0 to 1.1:"),
    "latency beside its interval": (result(latency=measured(ms=2)), "2 ms, from 0.9 to 1.1: must"),
    "latency below 0": (result(latency=measured(low=-1)), "must be 0 or more"),
    "latency as a number": (result(latency=1.5), "must be a nas.job.Latency"),
    "latency nowhere": (result(latency=measured(device=None)), "a Latency's device is None"),
    "device as a number": (result(device=7), "a Result's device is 7"),
    "seconds as text": (result(seconds="long"), "a Result's seconds is 'long'"),
    "seconds of nan": (result(seconds=math.nan), "must be finite"),
    "seconds for ever": (result(seconds=1e300), "must be 1e+09 at most"),
    "a curve of numbers": (result(curve=(0.5,)), "takes a nas.job.Epoch, not float"),
    "a curve of text": (result(curve=(point(accuracy="x"),)), "an Epoch's accuracy is 'x'"),
    "a failure without words": (Failure(kind="error", reason=None), "a Failure's reason is None"),  # type: ignore[arg-type]
    "an unknown failure": (Failure(kind="bored", reason="x"), "kind is 'bored'"),  # type: ignore[arg-type]
    "a failure of ours": (Failure(kind="worker_died", reason="x"), "kind is 'worker_died'"),
    "a failure of the search's": (Failure(kind="cancelled", reason="x"), "kind is 'cancelled'"),
}


@pytest.mark.parametrize("form", ODD)
def test_an_odd_answer_is_a_failure_with_a_sentence(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, told = ODD[form]
    made = answered(given, point(), monkeypatch=monkeypatch)
    assert isinstance(made, Failure)
    assert made.kind == "error"
    assert told in made.reason
    assert made.reason.isprintable()
    assert len(made.reason) < 1000
    assert made.curve == (point(),)


REPORTS: dict[str, tuple[Any, str]] = {
    "a number": (0.5, "takes a nas.job.Epoch, not float"),
    "epoch as text": (point(epoch="one"), "an Epoch's epoch is 'one'"),
    "half an epoch": (point(epoch=1.5), "must be a whole number"),
    "an epoch of nan": (point(epoch=math.nan), "must be finite"),
    "an epoch below 0": (point(epoch=-1), "must be 0 or more"),
    "loss as text": (point(train_loss="low"), "an Epoch's train_loss is 'low'"),
    "percents": (point(accuracy=85), "an Epoch's accuracy is 85: must be a fraction from 0 to 1"),
    "no accuracy": (point(accuracy=None), "an Epoch's accuracy is None"),
    "seconds of nan": (point(seconds=math.nan), "must be finite"),
}


@pytest.mark.parametrize("form", REPORTS)
def test_an_odd_report_is_a_failure_with_a_sentence(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, told = REPORTS[form]
    made = answered({"accuracy": 0.5}, point(), given, monkeypatch=monkeypatch)
    assert isinstance(made, Failure)
    assert told in made.reason
    assert made.curve == (point(),)


def test_an_evaluator_that_reports_too_often_fails_and_keeps_its_first_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "POINTS", 10)
    reports = [point(epoch=n) for n in range(11)]
    made = answered({"accuracy": 0.5}, *reports, monkeypatch=monkeypatch)
    assert "more than 10 times" in getattr(made, "reason", "")
    assert len(made.curve) == 10


def test_a_failure_of_its_own_is_kept_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Failure(kind="diverged", reason="loss is\x1b[31m nan\n" + "x" * 10_000)
    made = answered(given, point(), monkeypatch=monkeypatch)
    assert isinstance(made, Failure)
    assert made.kind == "diverged"
    assert made.reason.isprintable()
    assert made.reason.startswith("loss is [31m nan x")
    assert len(made.reason) <= answers.REASON_LENGTH
    assert made.curve == (point(),)


def test_a_metric_of_minus_zero_is_written_as_zero() -> None:
    assert str(answers.number(-0.0, "metric f1")) == "0.0"
