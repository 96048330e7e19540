"""Which evaluations are interchangeable: two that differ in any one thing are not."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from nas import metrics
from nas.cli.options import data_ref, plan
from nas.cli.record import check_images
from nas.driver.asking import Asker
from nas.driver.loop import search
from nas.errors import NasError, StudyError
from nas.job import DataRef
from nas.language.architecture import Architecture
from nas.metrics import METRICS, Metric
from nas.spaces.bounds import read_bound
from nas.store import Ask, open_store
from nas.workers.in_process import InProcess

SPACE = """
name: small
pattern: INPUT -> CONV(w) -> RELU -> GAP -> FC
where: {w: {choice: [2, 4, 6, 8]}}
objectives: {accuracy: max, params: min}
"""
EVALUATOR = """
def table(architecture, *, fidelity, seed, report):
    return {"accuracy": 1 / architecture.params, "energy": 2.0}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a space, an evaluator and a folder of images."""
    (tmp_path / "small.yaml").write_text(SPACE)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for n in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{n}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def planned(
    space: str = "small.yaml",
    dataset: str | None = None,
    data: str | Path = "images",
    size: int = 0,
    **told: Any,
) -> Any:
    asked: dict[str, Any] = {"trials": 4, "epochs": 1, "sampler": "random", **told}
    return plan(space, data_ref(dataset, str(data), size), **asked)


def asked(planned: Any) -> Ask:
    """The first candidate, which is the same for every plan of one seed but for what it stands
    for."""
    store = open_store("sqlite:///asked.db")
    row = store.open_study(dataclasses.replace(planned.row(), name=uuid.uuid4().hex))
    found = Asker(planned, row, 0, lambda row: row).ask()
    store.close()
    assert found is not None
    return found[1]


def stands_for(ask: Ask) -> tuple[str, int]:
    return ask.job_key, ask.seed


# --- evaluations ---------------------------------------------------------------------------------


def copied(here: Path, change: Callable[[Path], None]) -> str:
    folder = here / "copy"
    shutil.copytree(here / "images", folder)
    change(folder)
    return str(folder)


def one_pixel(folder: Path) -> None:
    image = Image.open(folder / "cat" / "3.png")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(folder / "cat" / "3.png")


def relabelled(folder: Path) -> None:
    (folder / "cat" / "3.png").rename(folder / "dog" / "new.png")


CHANGES: dict[str, Callable[[Path], None]] = {
    "one pixel": one_pixel,
    "one image less": lambda folder: (folder / "dog" / "9.png").unlink(),
    "one label": relabelled,
    "a class renamed": lambda folder: (folder / "dog").rename(folder / "wolf"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_images_are_another_evaluation(here: Path, change: str) -> None:
    before = asked(planned())
    after = asked(planned(data=copied(here, CHANGES[change])))
    assert after.fingerprint == before.fingerprint
    assert stands_for(after) != stands_for(before)


def test_the_same_images_elsewhere_are_the_same_evaluation(here: Path) -> None:
    assert stands_for(asked(planned(data=copied(here, lambda _: None)))) == stands_for(
        asked(planned())
    )


@pytest.mark.parametrize(
    "told",
    [{"size": 6}, {"epochs": 2}, {"recipe": ["lr=0.05"]}, {"seed": 1}],
    ids=["size", "epochs", "recipe", "seed"],
)
def test_another_setting_is_another_evaluation(here: Path, told: dict[str, Any]) -> None:
    assert stands_for(asked(planned(**told))) != stands_for(asked(planned()))


def told_by_a_new_process(evaluator: str) -> str:
    code = f"from nas.workers.run import source; print(source({evaluator!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return run.stdout.decode()


def test_another_source_is_another_evaluator(here: Path) -> None:
    keys = []
    for text in [EVALUATOR, EVALUATOR, EVALUATOR.replace("2.0", "3.0")]:
        (here / "told.py").write_text(text)
        keys.append(told_by_a_new_process("told:table"))
    assert keys[0] == keys[1] != keys[2]
    job = planned(data="").job
    one, other = (dataclasses.replace(job, evaluator="told:table", source=k) for k in keys[1:])
    assert one.key != other.key


def test_what_an_evaluator_imports_is_part_of_it(here: Path) -> None:
    (here / "package").mkdir()
    (here / "package" / "__init__.py").write_text("from .told import table\n")
    (here / "package" / "told.py").write_text("import constants\n" + EVALUATOR)
    (here / "constants.py").write_text("K = 3\n")
    (here / "unrelated.py").write_text("K = 3\n")
    before = told_by_a_new_process("package:table")
    (here / "unrelated.py").write_text("K = 4\n")
    assert told_by_a_new_process("package:table") == before
    (here / "constants.py").write_text("K = 4\n")
    changed = told_by_a_new_process("package:table")
    assert changed != before
    (here / "package" / "told.py").write_text("import constants  # again\n" + EVALUATOR)
    assert told_by_a_new_process("package:table") not in (before, changed)


LAYER = """
from dataclasses import dataclass
from nas.language.expression import Cost, Kept, Leaf
from nas.layers import LAYERS

@dataclass(frozen=True, slots=True)
class Bent(Leaf):
    def cost(self, x):
        return Cost(x, 0, 0)

    def module(self, x, fresh):
        from torch import nn
        return nn.Tanh()

    def keeps(self, x):
        return Kept(input=True)

LAYERS["BENT"] = Bent
"""


def test_a_plug_ins_layer_is_what_its_source_says(here: Path) -> None:
    pattern = "INPUT(1, 4, 4) -> CONV(2) -> BENT -> GAP -> FC(2)"
    code = f"""
import nas, sys
from nas import plugins
from nas.workers.run import source
plugins.load("layer.py")
print(nas.parse({pattern!r}).fingerprint, source("", ["layer.py"]))
"""

    def told(text: str) -> list[str]:
        (here / "layer.py").write_text(text)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return run.stdout.decode().split()

    tanh, again = told(LAYER), told(LAYER)
    relu = told(LAYER.replace("nn.Tanh", "nn.ReLU"))
    assert tanh == again
    assert all(one != other for one, other in zip(tanh, relu, strict=True))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"objectives": ["accuracy:max,accuracy:min"]}, "--objective accuracy: given twice"),
        ({"constraints": ["params<=1000", "params>=200"]}, "--constraint params: given twice"),
    ],
)
def test_a_metric_named_twice_is_refused(here: Path, told: dict[str, Any], message: str) -> None:
    with pytest.raises(NasError, match=message):
        planned(**told)


def test_checkpoints_know_their_images(here: Path) -> None:
    job, moved = planned().job, planned(data=copied(here, lambda _: None)).job
    changed = dataclasses.replace(job.data, identity="another")
    assert moved.training_key == job.training_key
    assert job.training_key != dataclasses.replace(job, data=changed).training_key


# --- studies -------------------------------------------------------------------------------------


def test_the_default_name_tells_folders_apart(here: Path) -> None:
    other = here / "elsewhere" / "images"
    shutil.copytree(here / "images", other)
    one_pixel(other)
    names = {planned().study, planned(data=str(other)).study}
    assert len(names) == 2
    assert all(name.startswith("small-images-") for name in names)
    assert planned(dataset="digits", data="").study == "small-digits"


def test_a_study_is_not_resumed_on_other_images(here: Path) -> None:
    store = open_store("sqlite:///nas.db")
    study = store.open_study(planned(study="mine").row())
    store.begin(study, [Ask(pattern="x", fingerprint="f", params=1, macs=1)])
    other = planned(study="mine", data=copied(here, relabelled))
    with pytest.raises(StudyError, match=r"made on 20 images in 2 classes \(cat, dog\) of .*images,"
                       r" and now they are 20 images in 2 classes .*copy"):  # fmt: skip
        store.open_study(other.row())
    store.close()


def test_images_that_look_the_same_are_told_to_be_others(here: Path) -> None:
    store = open_store("sqlite:///nas.db")
    study = store.open_study(planned(study="mine").row())
    about = study.images_about
    others = re.escape("], and now they are others by content [abcdefgh]")
    with pytest.raises(StudyError, match=rf"made on {re.escape(about)} \[\w{{8}}{others}"):
        check_images(study, DataRef(identity="abcdefghi"), about)
    store.close()


def test_a_second_study_takes_over_what_is_the_same_alone(here: Path) -> None:
    store = open_store("sqlite:///nas.db")

    def run(**told: Any) -> tuple[int, int]:
        status = search(planned(**told), store, InProcess())
        return status.finished, status.reused

    assert run(study="one") == (4, 0)
    assert run(study="again") == (0, 4)
    assert run(study="another seed", seed=7) == (4, 0)
    one_pixel(here / "images")
    assert run(study="overwritten in place") == (4, 0)
    store.close()


def test_a_result_without_the_metric_that_is_asked_for_does_not_stand(here: Path) -> None:
    (here / "half.py").write_text(
        EVALUATOR.replace("2.0", "2.0 if architecture.params > 60 else 1.0")
    )
    store = open_store("sqlite:///nas.db")
    told = {"evaluator": "half:table", "data": "", "objectives": ["accuracy:max"]}
    assert search(planned(study="one", **told), store, InProcess()).finished == 4
    with store.engine.begin() as connection:  # as if an earlier version had given no energy
        connection.exec_driver_sql("UPDATE nas_trials SET metrics = '{\"accuracy\": 0.5}'")
    told["objectives"] = ["accuracy:max", "energy:min"]
    status = search(planned(study="two", **told), store, InProcess())
    assert (status.finished, status.reused, len(status.front)) == (4, 0, 1)
    store.close()


# --- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"objectives": ["accuracy:max,latency:min"]}, "objective latency: .*mean latency_ms"),
        ({"objectives": ["acc:max"]}, "objective acc: .*did you mean accuracy"),
        ({"constraints": ["parms<=1e6"]}, "constraint on parms: .*did you mean params"),
        ({"constraints": ["latency<=0.0001"]}, "constraint on latency: .*mean latency_ms"),
    ],
)
def test_what_nothing_measures_is_refused_before_anything_runs(
    here: Path, told: dict[str, Any], message: str
) -> None:
    with pytest.raises(NasError, match=message):
        planned(**told)


@pytest.mark.parametrize("named", [{"objectives": ["accuracy:max,speed:max"]},
                                   {"constraints": ["speed>=3"]}])  # fmt: skip
def test_what_an_evaluator_does_not_give_stops_the_search_once(
    here: Path, named: dict[str, Any]
) -> None:
    (here / "told.py").write_text(EVALUATOR)
    store = open_store("sqlite:///nas.db")
    told = planned(study="s", evaluator="told:table", data="", **named)
    message = (
        "the search cannot go on: no result from its first 3 trials: told:table gave no speed: it "
        "gave accuracy, energy"
    )
    with pytest.raises(StudyError, match=message):
        search(told, store, InProcess())
    assert store.counts(store.find_study("s").id) == {"failed": 3}
    # Mistyped, it is in nobody's way: the right command goes on under the same name, and the
    # dashboard's copy with it. What was searched for from then on is refused like any other.
    search(planned(study="s", evaluator="told:table", data=""), store, InProcess())
    study = store.find_study("s")
    assert store.counts(study.id) == {"failed": 3, "finished": 1}
    assert dict(study.objectives) == {"accuracy": "max", "params": "min"}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    copied = optuna.load_study(study_name="s", storage="sqlite:///nas.db")
    assert len(copied.get_trials()) == 4
    both = dataclasses.replace(told, job=dataclasses.replace(told.job, epochs=7))
    with pytest.raises(StudyError, match="exists with other settings: ") as refused:
        search(both, store, InProcess())
    assert "settings.epochs is 1 in the study and 7 now; " in str(refused.value), str(refused.value)
    store.close()


@pytest.mark.parametrize(
    ("reason", "failed"),
    [("'no table'", 3), ("f'no table {object()} of {seed}'", 3), ("architecture.fingerprint", 4)],
)
def test_an_evaluator_that_fails_alike_in_the_first_trials_stops_the_search(
    here: Path, reason: str, failed: int
) -> None:
    """Not one that fails each network for a reason of its own, which is more than a number."""
    module = f"fails_{len(reason)}"
    (here / f"{module}.py").write_text(
        f"def table(architecture, *, fidelity, seed, report):\n    raise ValueError({reason})\n"
    )
    store = open_store("sqlite:///nas.db")
    told = planned(study="s", evaluator=f"{module}:table", data="", trials=4)
    stopped: Any = contextlib.nullcontext()
    if failed == 3:
        why = "the search cannot go on: no result from its first 3 trials: ValueError: no table"
        stopped = pytest.raises(StudyError, match=why)
    with stopped:
        search(told, store, InProcess())
    assert store.counts(store.find_study("s").id) == {"failed": failed}
    store.close()


def test_a_metric_that_one_network_lacks_fails_that_one_alone(here: Path) -> None:
    (here / "most.py").write_text(
        "count = 0\n"
        "def table(network, **_):\n"
        "    global count\n"
        "    count += 1\n"
        "    return {'accuracy': 0.5} | ({} if count in (1, 2, 4) else {'energy': 2.0})\n"
        "def none(architecture, **_):\n"
        "    return {'accuracy': 0.5}\n"
    )
    store = open_store("sqlite:///nas.db")
    told = {"data": "", "objectives": ["accuracy:max,energy:min"]}
    status = search(planned(study="s", evaluator="most:table", **told), store, InProcess())
    states = [row.state for row in store.trials(store.find_study("s").id)]
    assert states == ["failed", "failed", "finished", "failed"]
    assert [row.number for row in status.front] == [2]
    # A search of one trial says so after that one.
    only = planned(study="t", evaluator="most:none", trials=1, **told)
    with pytest.raises(
        StudyError, match="no result from its first trial: most:none gave no energy"
    ):
        search(only, store, InProcess())
    store.close()


def test_an_evaluator_that_asks_for_the_recipe_is_given_it(here: Path) -> None:
    (here / "taught.py").write_text(
        "def table(architecture, *, recipe, **_):\n"
        "    return {'accuracy': recipe.lr}\n"
        "def deaf(architecture, **_):\n"
        "    return {'accuracy': 0.5}\n"
    )
    (here / "rates.yaml").write_text(SPACE + "recipe: {lr: {choice: [0.25, 0.5]}}\n")
    store = open_store("sqlite:///nas.db")
    told = {"data": "", "trials": 6}
    fixed = planned(study="s", evaluator="taught:table", recipe=["lr=0.125"], **told)
    search(fixed, store, InProcess())
    assert {row.accuracy for row in store.trials(store.find_study("s").id)} == {0.125}
    searched = planned(space="rates.yaml", study="t", evaluator="taught:table", **told)
    search(searched, store, InProcess())
    rows = [*store.trials(store.find_study("t").id)]
    assert [row.accuracy for row in rows] == [row.sampled["recipe.lr"] for row in rows]
    with pytest.raises(NasError, match=r"small searches recipe\.lr: taught:deaf has no parameter"):
        planned(space="rates.yaml", evaluator="taught:deaf", **told)
    store.close()


def test_what_arithmetic_knows_is_not_given_as_another_number(here: Path) -> None:
    (here / "twice.py").write_text(
        "def table(network, **_):\n"
        "    return {'accuracy': 0.5, 'params': network.params, 'macs': 2 * network.macs}\n"
        "def same(architecture, **_):\n"
        "    return {**table(architecture), 'macs': float(architecture.macs)}\n"
    )
    store = open_store("sqlite:///nas.db")
    with pytest.raises(StudyError, match=r"twice:table gave macs ") as error:
        search(planned(study="s", evaluator="twice:table", data=""), store, InProcess())
    *_, row = store.trials(store.find_study("s").id)
    gave, has = 2 * row.macs, row.macs
    told = f"twice:table gave macs {gave:,}, and by arithmetic the network has {has:,}: a metric"
    assert told in str(error.value)
    assert (row.state, row.value("macs")) == ("failed", has)
    search(planned(study="t", evaluator="twice:same", data=""), store, InProcess())
    assert store.counts(store.find_study("t").id).keys() == {"finished"}
    store.close()


def depth(architecture: Architecture) -> float:
    return float(len(architecture.steps))


def test_an_arithmetic_metric_is_one_entry(here: Path) -> None:
    entry = Metric(about="elements", direction="min", title="depth", shown="{:.0f}".format,
                   arithmetic=depth)  # fmt: skip
    (here / "deep.yaml").write_text(
        "name: deep\npattern: INPUT -> [CONV(4) -> RELU]*N -> GAP -> FC\n"
        "where: {N: {int: [1, 4]}}\nobjectives: {accuracy: max, depth: min}\n"
        "constraints: {depth: '<= 8'}\n"
    )
    store = open_store("sqlite:///nas.db")
    with metrics.added({"depth": entry}):
        told = planned(space="deep.yaml", study="s", trials=3, sampler="default")
        status = search(told, store, InProcess())
        depths = sorted(row.value("depth") for row in store.trials(store.find_study("s").id))
        assert {row.value("depth") for row in status.front} <= {4, 6, 8}
    store.close()
    assert depths == [4, 6, 8]  # of N from 1 to 3: the fourth has 10 elements


def test_the_table_of_metrics_takes_no_name_twice() -> None:
    with pytest.raises(TypeError):
        METRICS["depth"] = METRICS["params"]  # type: ignore[index]
    again = {"depth": METRICS["params"], "accuracy": METRICS["params"]}
    with pytest.raises(NasError, match="accuracy: a search of this process"), metrics.added(again):
        pass
    assert METRICS["accuracy"].direction == "max"
    assert "depth" not in METRICS


@pytest.mark.parametrize(
    "text", ["<= 1_234_564", ">= 0.9123456789", "<= 1e6", "<= 0.1", ">= -2.5e-3"]
)
def test_a_bound_comes_back_as_it_was(text: str) -> None:
    bound = read_bound(text, "x")
    assert read_bound(str(bound), "x") == bound
