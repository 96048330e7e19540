"""The Python functions, and the way from a row of a table to a model in use."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from typed import command, ran

import nas
from nas.errors import NasError, StudyError
from nas.job import Epoch
from nas.metrics import count, percent
from nas.training.evaluation import Evaluation

CLASSES = ("dark", "light")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 90)):
        (root / name).mkdir()
        for number in range(50):
            pixels = random.integers(low, low + 160, (10, 10), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def study(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> nas.Study:
    storage = f"sqlite:///{tmp_path_factory.mktemp('record')}/nas.db"
    return nas.search(
        "lenet_like", data=photos, trials=3, epochs=2, seed=3, storage=storage, workers=0,
        objectives={"accuracy": "max", "params": "min"}, recipe={"batch": 16, "lr": 0.05},
        progress=False,
    )  # fmt: skip


def test_a_search_by_the_hour_has_what_there_was_time_for(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "space": "lenet_like", "storage": f"sqlite:///{tmp_path}/nas.db", "workers": 0,
        "evaluator": "evaluators:prints", "sampler": "random", "progress": False,
    }  # fmt: skip
    first = len(nas.search(**told, budget="1s").trials)
    assert first >= 1
    assert len(nas.search(**told, trials=first + 1, budget="2h").trials) == first + 1
    with pytest.raises(NasError, match="--budget '2': must be a time with its unit"):
        nas.search(**told, budget="2")


def test_a_search_gives_a_study_with_trials_front_and_best(study: nas.Study) -> None:
    assert [row.number for row in study.trials] == [0, 1, 2]
    assert study.objectives == {"accuracy": "max", "params": "min"}
    for row in study.front:
        better = [
            other for other in study.trials
            if other.value("accuracy") >= row.value("accuracy") and other.params <= row.params
            and (other.value("accuracy"), other.params) != (row.value("accuracy"), row.params)
        ]  # fmt: skip
        assert better == []
    assert study.best.accuracy == max(row.value("accuracy") for row in study.trials)
    assert nas.Study(study.name, study.storage).trials == study.trials
    best = study.best
    assert repr(best).startswith(
        f"Trial {best.number}, finished: accuracy {percent(best.accuracy)}"
    )
    assert f", MACs {count(best.macs)}, " in repr(best)
    assert repr(best).endswith(f": {best.pattern}")
    assert "3 trials" in repr(study)
    with pytest.raises(StudyError):
        _ = nas.Study("another", study.storage).trials


def test_a_dataframe_has_a_row_for_each_trial(study: nas.Study) -> None:
    frame = study.trials_dataframe()
    assert list(frame["trial"]) == [0, 1, 2]
    assert list(frame["accuracy"]) == [row.accuracy for row in study.trials]
    assert list(frame["params"]) == [row.params for row in study.trials]
    assert pandas.api.types.is_integer_dtype(frame["params"])
    for row, (_, told) in zip(study.trials, frame.iterrows(), strict=True):
        for name in frame.columns.intersection(list(row.sampled)):
            assert told[name] == row.sampled[name]
        assert set(row.sampled) <= set(frame.columns)
    best = frame.loc[frame["accuracy"].idxmax()]
    assert best["pattern"] == study.best.pattern


def test_without_pandas_it_is_told_what_to_install(
    study: nas.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NasError, match="pip install pandas"):
        study.trials_dataframe()


def test_the_plot_is_the_picture_of_the_command(
    study: nas.Study, tmp_path: Path, capsys: Any
) -> None:
    plot = study.plot()
    given = ("pareto", "--study", study.name, "--storage", study.storage, "-f", "svg")
    status, out, err = ran(capsys, *given)
    assert status == 0, err
    assert plot.svg == plot._repr_svg_() == plot._repr_html_() == out
    assert plot.svg.startswith("<svg ")
    assert repr(plot) == "Picture('lenet_like on photos0: 3 networks, a front of " + (
        f"{len(study.front)}')"
    )
    plot.save(tmp_path / "front.svg")
    assert (tmp_path / "front.svg").read_text() == out
    plot.save(str(tmp_path / "front.png"))
    assert Image.open(tmp_path / "front.png").format == "PNG"
    with pytest.raises(NasError, match=r"front\.pdf: a picture's name must end in \.svg or \.png"):
        plot.save(tmp_path / "front.pdf")


def test_what_a_notebook_shows_is_one_line(study: nas.Study, photos: Path) -> None:
    shown = [study, study.plot(), nas.parse("INPUT -> CONV(4) -> FC"), nas.load_space("mixed")]
    for thing in shown:
        assert "\n" not in repr(thing)
        assert len(repr(thing)) < 200


def test_a_training_shows_its_epochs_unless_it_is_told_not_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    epochs: list[Epoch] = []
    network = "INPUT(1, 8, 8) -> FC(width=10)"
    nas.train(network, epochs=2, report=epochs.append)
    told = capsys.readouterr()
    assert told.out == ""
    lines = [
        f"nas: epoch {n} of 2, loss {point.train_loss:.4f}, validation accuracy "
        f"{100 * point.accuracy:.2f} %, "
        for n, point in enumerate(epochs, 1)
    ]
    shown = told.err.splitlines()
    assert [line.startswith(own) for line, own in zip(shown, lines, strict=True)] == [True, True]
    nas.train(network, epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")


def test_ten_lines_from_photos_to_a_prediction(
    study: nas.Study, photos: Path, tmp_path: Path
) -> None:
    epochs: list[Any] = []
    model = nas.train(
        study.best, data=photos, epochs=3, output=tmp_path / "m.safetensors", report=epochs.append
    )
    assert len(epochs) == 3
    assert model.classes == CLASSES
    assert model.card.recipe["batch"] == 16  # the trial's
    assert model.card.recipe["lr"] == 0.05
    found = nas.evaluate(model, data=photos)
    assert isinstance(found, Evaluation)
    assert found.accuracy == model.card.metrics["test_accuracy"]
    again = nas.load_model(tmp_path / "m.safetensors")
    paths = sorted(photos.rglob("*.png"))
    assert [p.label for p in again.predict(paths)] == [p.label for p in model.predict(paths)]
    assert nas.evaluate(tmp_path / "m.safetensors", data=photos).accuracy == found.accuracy


def test_a_trial_of_another_size_of_a_teacher_or_of_none_is_trained(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "storage": f"sqlite:///{tmp_path}/nas.db", "trials": 1, "epochs": 1, "workers": 0,
        "progress": False, "size": 16,
    }  # fmt: skip
    study = nas.search("lenet_like", baselines=["logistic"], **told)
    (network,) = (row for row in study.trials if not row.baseline)
    (classical,) = (row for row in study.trials if row.baseline)
    file = tmp_path / "teacher.safetensors"
    teacher = nas.train(network, epochs=1, progress=False, output=file)
    assert teacher.input == (1, 16, 16)
    with pytest.raises(
        StudyError, match=r"trial \d is logistic, a classical method, not a network"
    ):
        nas.train(classical)
    taught = nas.search("lenet_like", study="taught", teachers=[file], **told).best
    message = (
        rf"trial 0 was taught by the models of digest {teacher.digest}: give their files as "
        r"teachers=, or use `nas train --trial 0`"
    )
    with pytest.raises(NasError, match=message):
        nas.train(taught)
    student = nas.train(taught, epochs=1, teachers=[file], progress=False)
    assert student.card.recipe["teacher"] == teacher.digest
    # The weights are those of the trial.
    assert student.card.metrics["accuracy"] == taught.accuracy


def test_a_seed_is_one_that_a_search_takes_of_numpy_too(study: nas.Study, photos: Path) -> None:
    network = "INPUT(1, 8, 8) -> FC(width=10)"
    for seed in (-1, 1 << 32, 10**23):
        with pytest.raises(NasError, match=f"--seed {seed}: must be from 0 to 4294967295"):
            nas.train(network, seed=seed, progress=False)
        with pytest.raises(NasError, match=f"--seed {seed}: must be from 0 to 4294967295"):
            nas.search("lenet_like", seed=seed, storage=study.storage)
        status = command("train", "--trial", 0, "--storage", study.storage, f"--seed={seed}")
        assert status == 2
    model = nas.train(network, epochs=np.int64(1), seed=np.int64(7), progress=False)  # type: ignore[arg-type]
    assert type(model.card.seed) is int
    assert model.card.seed == 7
    assert model.digest == nas.train(network, epochs=1, seed=7, progress=False).digest


def test_a_trial_is_trained_from_the_record_alone(
    study: nas.Study, tmp_path: Path, capsys: Any
) -> None:
    row = study.best
    given = ("train", "--trial", row.number, "--storage", study.storage, "-o", tmp_path)
    status, _, err = ran(capsys, *given)
    assert status == 0, err
    (file,) = tmp_path.glob("*.safetensors")
    model = nas.load_model(file)
    assert str(model.architecture) == row.pattern
    # The same seed, recipe, images and epochs: the network that the search had.
    assert model.card.metrics["accuracy"] == row.accuracy
    assert f"nas export {file} -f onnx" in err
    status, _, err = ran(capsys, *given, "--epochs", "3", "--recipe", "lr=0.02")
    assert status == 0, err
    (longer,) = set(tmp_path.glob("*.safetensors")) - {file}
    assert nas.load_model(longer).card.epochs == 3
    assert nas.load_model(longer).card.recipe == dict(row.recipe) | {"lr": 0.02}
    status, out, err = ran(capsys, "evaluate", file, "--data", study_data(study),
                           "-f", "json")  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["accuracy"] == model.card.metrics["test_accuracy"]


def study_data(study: nas.Study) -> str:
    return str(study._read[0].directory)


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["export", "--trial", "0", "-f", "pattern"], 0, "0"),
        (["export", "1", "-f", "python"], 0, "1"),
        (["export", "--trial", "99"], 2, "99"),
        (["train", "--trial", "99"], 2, "99"),
        (
            ["train", "--trial", "0", "lenet5"],
            2,
            "give either a pattern or a network's name, or --trial",
        ),
        (["train"], 2, "give either a pattern or a network's name, or --trial N"),
        (["train", "--trial", "0", "--dataset", "digits"], 2, "is on imagefolder"),
        (["train", "--trial", "0", "--epochs", "0"], 2, "--epochs 0: must be 1 or more"),
        (["train", "--trial", "0", "--recipe", "lr=-1"], 2, "recipe.lr is -1.0"),
    ],
)
def test_a_trials_number_stands_for_its_pattern_on_the_command_line(
    arguments: list[str], status: int, reason: str, study: nas.Study, capsys: Any
) -> None:
    ended, out, err = ran(capsys, *arguments, "--storage", study.storage)
    assert ended == status, err
    if status == 0:  # the reason is the trial's number
        assert study.trials[int(reason)].pattern in out
    else:
        assert reason in err
        assert (out, err.count("\n")) == ("", 1)


def test_kept_weights_are_exported_and_of_others_it_is_said_how_to_get_them(
    study: nas.Study, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    kept = {row.number: row for row in study.trials if row.model}
    assert kept.keys() == {row.number for row in study.front}
    monkeypatch.chdir(tmp_path)
    for row in study.trials:
        given = ("export", "--trial", row.number, "--storage", study.storage, "-f", "onnx")
        status, _, err = ran(capsys, *given)
        if row.number in kept:
            assert status == 0, err
            found = nas.evaluate(tmp_path / f"trial-{row.number}.onnx", data=study_data(study),
                                 part="validation")  # fmt: skip
            assert found.accuracy == pytest.approx(row.accuracy, abs=0.06)
            assert str(nas.load_model(row.model).architecture) == row.pattern
        else:
            assert status == 2
            assert f"`nas train --trial {row.number} --study {study.name}` trains it" in err


def test_the_source_of_a_trial_outlives_its_study(
    study: nas.Study, tmp_path: Path, capsys: Any
) -> None:
    row, source = study.best, tmp_path / "net.py"
    given = ("export", "--trial", row.number, "--storage", study.storage, "-o", source)
    status, _, err = ran(capsys, *given)
    assert status == 0, err
    assert "WEIGHTS = 'net.safetensors'" in source.read_text()
    assert (tmp_path / "net.safetensors").read_bytes() == Path(row.model or "").read_bytes()
    assert ran(capsys, *given)[0] == 0  # again
    assert ran(capsys, *given[:-1], tmp_path / "net.safetensors")[0] == 0  # another format
    assert ran(capsys, *given)[0] == 0
    (tmp_path / "net.safetensors").write_bytes(b"mine")
    status, _, err = ran(capsys, *given)
    assert (status, "net.safetensors exists and is a different one" in err) == (2, True)
    assert (tmp_path / "net.safetensors").read_bytes() == b"mine"


def test_a_trial_is_shown_by_its_number_or_as_a_table_prints_it(
    study: nas.Study, capsys: Any
) -> None:
    row = study.best
    status, whole, _ = ran(capsys, "show", "--trial", row.number, "--storage", study.storage)
    assert status == 0
    assert f"{row.params:,} params" in whole
    body = " -> ".join(row.pattern.split(" -> ")[1:-1])
    status, pasted, err = ran(capsys, "show", body, "--size", 10)
    assert status == 0, err
    assert f"{nas.parse(f'INPUT -> {body} -> FC', (1, 10, 10), 10).params:,} params" in pasted
    assert err == "nas: as for digits (1x10x10, 10 classes); --data DIR for yours\n"
    for text, whole in (  # any body: one element, one that ends in an FC, one without a layer
        ("FC(64)", "INPUT -> FC(64) -> FC"),
        ("GAP", "INPUT -> GAP -> FC"),
        ("POOL", "INPUT -> POOL -> FC"),
        ("POOL*3", "INPUT -> POOL*3 -> FC"),
        ("GAP -> FC", "INPUT -> GAP -> FC"),
        ("INPUT -> FC", "INPUT -> FC"),
    ):
        status, pasted, err = ran(capsys, "show", text)
        assert (status, nas.parse(whole).fingerprint in pasted) == (0, True)
        assert err == "nas: as for digits (1x8x8, 10 classes); --data DIR for yours\n"
    assert ran(capsys, "show", "INPUT(3, 32, 32) -> FC(7)")[2] == ""  # nothing is assumed
    status, _, err = ran(capsys, "export", "INPUT -> FC(7)", "-f", "pattern")
    assert (status, "as for digits (1x8x8); for others write INPUT(" in err) == (0, True)
    status, _, err = ran(capsys, "show", "GAPS")
    assert (status, err.startswith("nas: unknown network or space GAPS; ")) == (2, True)
    status, _, err = ran(capsys, "show", "CONV(16) -> RELUU -> GAP")
    assert (status, err.startswith("nas: RELUU at column 13: unknown layer")) == (2, True)
    status, _, err = ran(capsys, "show", row.pattern, "--trial", 1)
    assert (status, "give either" in err) == (2, True)


def test_other_images_than_the_study_was_made_on_are_refused(
    study: nas.Study, tmp_path: Path, capsys: Any
) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for n in range(10):
            Image.new("L", (10, 10), 20 * n).save(tmp_path / name / f"{n}.png")
    given = ("train", "--trial", 0, "--storage", study.storage, "--data", tmp_path)
    status, _, err = ran(capsys, *given)
    assert status == 2
    assert f"study '{study.name}' was made on " in err


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: nas.evaluate(None), "model is None: must be"),
        (lambda: nas.evaluate("m.safetensors", data=5), "data is 5: must be str | Path"),
        (lambda: nas.train("lenet5", epochs="2"), "epochs is '2': must be int"),
        (lambda: nas.train("lenet5", epochs=1.5), "epochs is 1.5: must be int"),
        (lambda: nas.train("lenet5", epochs=True), "epochs is True: must be int"),
        (lambda: nas.train("lenet5", report=3), "report is 3: must be a function"),
        (lambda: nas.search("lenet_like", trials="x"), "trials is 'x': must be int | None"),
        (lambda: nas.search("lenet_like", constraints="params<=9"), "constraints is 'params<=9'"),
        (lambda: nas.search("lenet_like", objectives={"accuracy": 1}), "objectives is {'acc"),
        (
            lambda: nas.search("lenet_like", keep="some"),
            "keep is 'some': must be one of front, all, none",
        ),
        (
            lambda: nas.search("lenet_like", constraints=(c for c in [3])),
            "constraints is (3,): must be Iterable[str]",
        ),
        (lambda: nas.search("lenet_like", plugins=map(int, "12")), "plugins is (1, 2): must be"),
        (lambda: nas.search("lenet_like", baselines=iter([None])), "baselines is (None,): must be"),
        (lambda: nas.search("lenet_like", teachers=iter([b"a"])), "teachers is (b'a',): must be"),
        (lambda: nas.search("lenet_like", older=iter([Path("a")])), "older is (PosixPath('a'),"),
        (lambda: nas.search("lenet_like", older={"a": 1}), "older is {'a': 1}: must be Iterable"),
        (lambda: nas.train("lenet5", size=-3), "size is -3: must be from 0 (automatic) to 16384"),
        (lambda: nas.search("lenet_like", size=-3), "size is -3: must be from 0 (automatic) to"),
        (lambda: nas.load_space("lenet_like", size=-3), "size is -3: must be a whole number"),
        (lambda: nas.load_space("lenet_like").sample("a"), "seed is 'a': must be a whole number"),
        (lambda: nas.Study(3, "sqlite:///r.db"), "name is 3: must be str"),
        (lambda: nas.Study("s", 4), "storage is 4: must be str"),
    ],
)
def test_an_argument_of_another_type_is_refused(call: Any, told: str) -> None:
    with pytest.raises(NasError) as error:
        call()
    assert told in str(error.value)


def test_numbers_and_texts_of_numpy_are_taken_as_pythons_own(photos: Path, tmp_path: Path) -> None:
    def train(seed: Any, epochs: Any, size: Any) -> list[Any]:
        return weights(
            nas.train(
                "INPUT -> FC", data=photos, seed=seed, epochs=epochs, size=size, progress=False,
                recipe={"batch": np.int64(16), "lr": np.float64(0.05), "flip": np.True_},
            )
        )  # fmt: skip

    assert train(np.int64(1), np.uint8(2), np.int16(8)) == train(1, 2, 8)
    url = f"sqlite:///{tmp_path}/nas.db"
    found = nas.search(
        "lenet_like", trials=np.int64(2), epochs=np.int32(1), seed=np.uint16(5), size=np.int64(0),
        workers=np.int64(0), storage=np.str_(url), study=np.str_("s"), sampler=np.str_("random"),
        evaluator="evaluators:prints", objectives={np.str_("params"): np.str_("min")},
        constraints=(np.str_(bound) for bound in ["params<=1e9"]), progress=False,
    )  # fmt: skip
    assert len(found.trials) == 2
    assert nas.Study("s", url).trials == found.trials


def test_the_package_lists_what_there_is() -> None:
    for name in ("search", "train", "evaluate", "load_model", "parse", "build", "load_space"):
        assert name in dir(nas)
        assert getattr(nas, name).__doc__
    with pytest.raises(AttributeError, match="module 'nas' has no attribute 'serch'"):
        _ = nas.serch


def test_a_missing_package_is_not_told_as_a_missing_name() -> None:
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        "import nas\n"
        "try:\n    nas.load_model\n"
        "except ModuleNotFoundError as error:\n    print(error.name)"
    )
    run = [sys.executable, "-c", code]
    told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split()[0].startswith("safetensors")


# --- in threads ----------------------------------------------------------------------------------


def together(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def weights(model: nas.Model) -> list[Any]:
    return [tensor.tolist() for tensor in model.network.state_dict().values()]


def test_trainings_in_threads_have_the_weights_of_their_seeds(photos: Path) -> None:
    def train(seed: int) -> nas.Model:
        return nas.train(
            "INPUT -> CONV(4) -> DROPOUT(0.5) -> FC", data=photos, epochs=3, seed=seed,
            recipe="batch=8", progress=False,
        )  # fmt: skip

    seeds = (1, 2, 3)
    alone = [weights(train(seed)) for seed in seeds]
    found: dict[int, nas.Model] = {}
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    together(*(lambda seed=seed: found.update({seed: train(seed)}) for seed in seeds))  # type: ignore[misc]
    assert [weights(found[seed]) for seed in seeds] == alone
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_searches_in_threads_find_what_each_finds_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def search(seed: int, name: str) -> None:
        nas.search(
            "lenet_like", data=photos, trials=2, epochs=2, seed=seed, storage=f"sqlite:///{name}",
            recipe="batch=16", workers=0, progress=False, sampler="random", study="lenet",
        )  # fmt: skip

    def found(name: str) -> list[Any]:
        study = nas.Study("lenet", f"sqlite:///{name}")
        return [(row.pattern, row.accuracy) for row in study.trials]

    state = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
    shown = sys.stdout
    for seed in (1, 2):
        search(seed, f"alone{seed}")
    together(*(lambda seed=seed: search(seed, f"beside{seed}") for seed in (1, 2)))  # type: ignore[misc]
    for seed in (1, 2):
        assert found(f"beside{seed}") == found(f"alone{seed}")
    assert sys.stdout is shown
    assert (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()) == state
