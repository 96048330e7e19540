"""Transfer from older studies: used where they are related, ignored where not."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from scipy.optimize import check_grad
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern
from test_search import accuracy, plan, rows, run, space_of

from nas.cli import searches
from nas.cli.options import plan as planned
from nas.driver.asking import Asker
from nas.driver.older import moved_on, offers, older_studies
from nas.driver.plan import Plan
from nas.errors import NasError, StudyError
from nas.job import DataRef
from nas.language.architecture import Architecture
from nas.report.reproduce import search_command
from nas.samplers.ehvi import OPENING, EHVISampler
from nas.samplers.encoding import Encoding
from nas.samplers.gp import GP, Settings, objective
from nas.samplers.problem import Problem
from nas.samplers.related import SKILL, Older
from nas.store import Store, TrialRow
from nas.workers.in_process import InProcess

optuna.logging.set_verbosity(optuna.logging.ERROR)

# --- processes that are linear in a column ------------------------------------------------------


class Sliced:
    """A kernel of scikit-learn's on some columns alone."""

    def __init__(self, kernel: Any, columns: slice) -> None:
        self.kernel, self.columns = kernel, columns

    def __call__(self, a: Any, b: Any = None) -> Any:
        return self.kernel(a[:, self.columns], None if b is None else b[:, self.columns])


def test_a_linear_column_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.random((30, 3)), rng.standard_normal(30), 4 * rng.random((7, 3))
    weights, slope, noise = np.array([0.5, 3.0]), 0.8, 0.1
    settings = Settings(np.append(weights, slope), 2.0, 0.5, 7.0, noise, 1)
    ours = GP.given(settings, np.arange(3), x, y)
    smooth = ConstantKernel(2.0) * Matern(1 / np.sqrt(weights), nu=2.5)
    smooth += ConstantKernel(0.5) * Matern(1 / np.sqrt(7.0 * weights), nu=0.5)
    parts = Sliced(smooth, slice(2)), Sliced(DotProduct(0.0), slice(2, 3))

    def kernel(a: Any, b: Any) -> Any:
        return parts[0](a, b) + slope * parts[1](a, b)

    inverse = np.linalg.inv(kernel(x, x) + (noise + 1e-6) * np.eye(30))
    cross = kernel(new, x)
    mean, deviation = ours.predict(new)
    np.testing.assert_allclose(mean, cross @ inverse @ y, atol=1e-6)
    variance = np.diag(kernel(new, new) - cross @ inverse @ cross.T)
    np.testing.assert_allclose(deviation**2, variance, atol=1e-5)


def test_the_gradient_of_a_slope_is_that_of_its_differences() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((25, 5)), rng.standard_normal(25)
    loss = objective(x, np.array([0, 1, 1, 2, 3]), y, linear=2)
    for theta in rng.normal(-1.0, 1.0, (5, 8)):
        assert check_grad(lambda p: loss(p)[0], lambda p: loss(p)[1], theta) < 1e-3


# --- the sampler ---------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("evaluated")
NAMES = [f"op{k}" for k in range(6)]
DOMAINS = {name: CategoricalDistribution([0, 1, 2]) for name in NAMES}
ENCODING = Encoding.of(DOMAINS)
EVERY = [dict(zip(NAMES, v, strict=True)) for v in itertools.product(range(3), repeat=len(NAMES))]


def worth(params: dict[str, int], task: float = 0.0) -> float:
    """Percents, where each operation counts the more the later it stands; another ``task`` values
    the first two apart."""
    gain = sum((k + 1) * params[n] ** 0.5 for k, n in enumerate(NAMES))
    return 90.0 - 40.0 * math.exp(-gain / 12.0) + task * (params["op0"] - params["op1"])


def cost(params: dict[str, int]) -> float:
    return sum(params.values()) + 1.0


def older(values: Any, count: int = 60) -> Older:
    drawn = random.Random(1).sample(EVERY, count)
    x, scales = ENCODING.embed(np.array([ENCODING.row(params) for params in drawn]))
    return Older(
        name="old",
        place=lambda params: ENCODING.embed(ENCODING.row(params)[None])[0][0],
        x=x,
        scales=scales,
        values={0: values(drawn)},
        shared=int(scales[-1]) + 1,
    )


def related(drawn: list[dict[str, int]]) -> Any:
    return np.array([3.0 * worth(params) - 20.0 for params in drawn])


def lots(architecture: Architecture, **_: Any) -> dict[str, float]:
    """An accuracy by lot."""
    return {"accuracy": random.Random(str(architecture)).random()}


def shuffled(drawn: list[dict[str, int]]) -> Any:
    values = related(drawn)
    random.Random(0).shuffle(values)
    return values


def asked(count: int, seed: int, *olds: Older) -> list[dict[str, int]]:
    problem = Problem(distributions=DOMAINS, known=lambda p: {1: cost(p)}, older=olds)
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=EHVISampler(seed, problem)
    )
    for _ in range(count):
        trial = study.ask(DOMAINS)
        study.tell(trial, [worth(trial.params, 0.5), cost(trial.params)])
    return [trial.params for trial in study.trials]


def hypervolume(found: list[dict[str, int]]) -> float:
    points = [(worth(params, 0.5), -cost(params)) for params in found]
    reference = min(worth(params, 0.5) for params in EVERY), -14.0
    steps = sorted({c for _, c in points}, reverse=True)
    volume, best = 0.0, reference[0]
    for at, following in itertools.pairwise([*steps, reference[1]]):
        best = max([best, *(w for w, c in points if c == at)])
        volume += (best - reference[0]) * (at - following)
    return volume


def test_the_first_trials_are_what_an_older_study_knows() -> None:
    with_it = [hypervolume(asked(OPENING, seed, older(related))) for seed in range(3)]
    without = [hypervolume(asked(2 * OPENING, seed)) for seed in range(3)]
    assert min(with_it) > max(without)


def test_an_older_study_of_shuffled_values_changes_no_proposal() -> None:
    """An older study whose networks do not predict one another is not used."""
    nothing = older(shuffled)
    assert not nothing.useful
    assert older(related).useful
    assert asked(14, 3, nothing) == asked(14, 3)


def test_a_search_recovers_from_an_older_study_that_misleads() -> None:
    """After the first picks the model knows better."""
    wrong = older(lambda drawn: -related(drawn))
    assert wrong.useful
    found = [hypervolume(asked(25, seed, wrong)) for seed in range(2)]
    random_ones = [hypervolume(random.Random(seed).sample(EVERY, 25)) for seed in range(20)]
    assert min(found) > np.quantile(random_ones, 0.9)


def test_an_older_study_of_few_trials_is_not_used() -> None:
    assert not older(related, count=9).useful
    assert 0 < SKILL < 0.5


# --- the search ----------------------------------------------------------------------------------


def other_space() -> Any:
    """Of other parameters: none has the name of one of ``wide_space``."""
    return space_of(
        {"u": {"choice": [6, 8, 10, 12]}, "L": {"int": [1, 5]}},
        pattern="INPUT -> CONV(width=u) -> RELU -> [CONV(width=u) -> RELU]*L -> GAP -> FC",
    )


def larger(space: Any) -> Any:
    return dataclasses.replace(space, input=(1, 16, 16))


def test_a_search_begins_with_what_an_older_one_knows(store: Store) -> None:
    run(store, plan(trials=30))
    spaces = (plan().space, other_space(), larger(plan().space))
    for n, space in enumerate(spaces):
        one = dataclasses.replace(space, objectives={"accuracy": "max"})
        searched = plan(study=f"n{n}", sampler="default", older=("s",), space=one, trials=5)
        (told,) = older_studies(searched, store)
        assert (told.name, len(told.x), told.useful) == ("s", 30, True)
        run(store, searched)
        found = rows(store, f"n{n}")
        assert store.find_study(f"n{n}").settings["from"] == ["s"]
        # The best of the first picks is better than that of most of as many draws.
        drawn = [accuracy(searched.space.sample(seed)) for seed in range(200)]
        best = [max(drawn[k : k + 5]) for k in range(0, 200, 5)]
        assert max(row.accuracy or 0.0 for row in found) >= np.quantile(best, 0.9)
    assert " --from s" in search_command(store.find_study("n0"), rows(store, "n0"))


def test_a_network_of_larger_images_is_the_same_network(store: Store) -> None:
    """Where it is does not hang on the images' size."""
    run(store, plan(trials=20))
    searched = plan(study="n", older=("s",), space=larger(plan().space))
    (told,) = older_studies(searched, store)
    for row, x in zip(rows(store), told.x, strict=True):
        np.testing.assert_allclose(told.place(dict(row.sampled)), x, atol=0.02)


def test_a_study_without_trials_takes_older_ones_that_are_newer_than_it(store: Store) -> None:
    store.open_study(plan(study="new", sampler="default").row())  # interrupted before a trial
    run(store, plan(trials=20))
    searched = plan(study="new", sampler="default", older=("s",), trials=1)
    assert len(older_studies(searched, store)[0].x) == 20
    run(store, searched)
    run(store, plan(trials=30))
    assert len(older_studies(searched, store)[0].x) == 20


def test_a_search_that_goes_on_knows_what_it_knew(store: Store) -> None:
    run(store, plan(trials=30))
    searched = plan(study="new", sampler="default", older=("s",), trials=3)
    run(store, searched)
    study = store.find_study("new")

    def following() -> str:
        asker = Asker(searched, study, 3, lambda row: row, "", older_studies(searched, store))
        for row in rows(store, "new"):
            asker.tell(row)
        found = asker.ask()
        assert found is not None
        return found[1].fingerprint

    before = following()
    run(store, plan(trials=60))  # the older one goes on meanwhile
    assert following() == before
    assert len(older_studies(searched, store)[0].x) == 30
    assert len(older_studies(dataclasses.replace(searched, study="another"), store)[0].x) == 60
    with pytest.raises(StudyError, match=r"settings.from is \['s'\] in the study and absent now"):
        run(store, plan(study="new", sampler="default", trials=5))


def test_older_studies_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, plan(study="old", trials=12, sampler="random"))
    asked = plan(trials=2, older=("old",), sampler="default")
    url = store.engine.url.render_as_string()
    read: list[int] = []
    whole = Store.trials

    def trials(self: Store, study_id: int, **told: Any) -> Iterator[TrialRow]:
        read.append(study_id)
        return whole(self, study_id, **told)

    monkeypatch.setattr(Store, "trials", trials)
    searches.run(asked, url, lambda need, jobs: InProcess(), progress=False)
    assert read.count(store.find_study("old").id) == 1


def test_what_cannot_serve_is_refused_before_a_study_is_made(store: Store) -> None:
    run(store, plan(trials=5))
    for older, reason in (
        ("s", "--from s: it has 5 networks with accuracy; 10 are needed"),
        ("t", "there is no study 't': known: s"),
        ("new", "--from new: a study cannot warm-start from itself"),
    ):
        with pytest.raises(StudyError, match=reason):
            run(store, plan(study="new", sampler="default", older=(older,)))
    assert [study.name for study in store.studies()] == ["s"]
    with pytest.raises(NasError, match="--from s: --sampler tpe learns only from its own study"):
        planned("lenet_like", DataRef(), epochs=1, sampler="tpe", older=["s"])


def test_older_studies_are_offered_once(store: Store) -> None:
    run(store, plan(trials=12))
    run(store, plan(study="few", trials=4))
    useless = plan(study="lots", trials=40)
    job = dataclasses.replace(useless.job, evaluator="test_older:lots")
    run(store, dataclasses.replace(useless, job=job))
    new = plan(study="new", sampler="default")
    offered = offers(new, store)
    assert offered.startswith("--from STUDY would warm-start from an older study: ")
    assert f"s (12 networks of stack by {new.job.evaluator})" in offered
    assert "few" not in offered
    assert "lots" not in offered  # a search would not use it
    (told,) = older_studies(dataclasses.replace(new, older=("lots",)), store)
    assert not told.useful
    assert offers(dataclasses.replace(new, older=("s",)), store) == ""
    assert offers(dataclasses.replace(new, study="few"), store) == ""
    assert offers(dataclasses.replace(new, sampler="random"), store) == ""


def test_a_directory_whose_images_have_changed_is_told(store: Store) -> None:
    def of(study: str, directory: str, identity: str) -> Plan:
        ref = DataRef(name="imagefolder", dir=directory, identity=identity)
        told = plan(study=study)
        return dataclasses.replace(told, job=dataclasses.replace(told.job, data=ref))

    store.open_study(of("old", "/photos", "a" * 32).row())
    assert moved_on(of("new", "/photos", "b" * 32), store) == (
        "/photos was searched as study old, but its images have changed: this is a new study, new"
    )
    for same in (of("old", "/photos", "a" * 32), of("new", "/photos", "a" * 32),
                 of("new", "/others", "b" * 32)):  # fmt: skip
        assert moved_on(same, store) == ""
