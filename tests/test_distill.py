"""Distillation: the student's targets, its control, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from pathlib import Path

import networks
import numpy as np
import pytest
import scipy.special
import torch
from scipy import stats
from torch import nn
from typed import command

import nas
from nas import data
from nas.cli.paired import tell_epochs
from nas.data.batches import Source, preparation, statistics
from nas.errors import NasError, RecipeError
from nas.job import DataRef, Epoch, Job, Recipe
from nas.language.architecture import parse
from nas.report import smaller
from nas.store import open_store
from nas.training import teacher, train
from nas.training.card import Card
from nas.training.models import Model, load_model, save_model
from nas.training.paired import Arm, Gain, Paired
from nas.training.step import loss_of

LARGE = "INPUT -> CONV(12) -> BN -> RELU -> POOL -> CONV(16) -> BN -> RELU -> GAP -> FC"
SMALL = "INPUT -> CONV(4) -> BN -> RELU -> POOL -> CONV(6) -> BN -> RELU -> GAP -> FC"
DIGITS = DataRef()
CPU = torch.device("cpu")


def model_file(file: Path, pattern: str = LARGE, seed: int = 0, classes=None, input=None) -> Path:
    info = data.describe(DIGITS)
    made = parse(pattern, input or info.shape, len(classes or info.classes))
    network = nas.build(made, seed=seed)
    normal = statistics(data.load(DIGITS, "train"))
    normal = dataclasses.replace(
        normal, mean=normal.mean * made.input[0], std=normal.std * made.input[0]
    )
    card = Card(
        architecture=made,
        classes=tuple(classes or info.classes),
        normal=normal,
        dataset="digits",
        identity=data.identity(DIGITS),
    )
    save_model(file, network, card)
    return file


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return model_file(tmp_path / "large.safetensors")


def job_of(*files: Path, pattern: str = SMALL, **settings) -> Job:
    digest = teacher.digest_of([load_model(file) for file in files])
    recipe = Recipe.of({"teacher": digest, **settings})
    return Job(pattern=pattern, recipe=recipe, epochs=1, teachers=tuple(map(str, files)))


def teaching(job: Job, student: nn.Module) -> tuple[teacher.Teacher, torch.Tensor, torch.Tensor]:
    """The teacher of a job, the first images as the student takes them, and their labels."""
    images = data.load(job.data, "train")
    normal, source = statistics(images), Source.of(images, CPU)
    made = teacher.Teacher.of(job, student, normal, CPU, images)
    made.at = torch.arange(32)
    pixels, labels = source.take(made.at)
    return made, preparation(normal, (8, 8))(pixels), labels


@pytest.mark.parametrize("settings", [{}, {"distill": 0.3, "temperature": 5.0}])
def test_the_distillation_loss_is_hintons_formula(
    large: Path, tmp_path: Path, settings: dict[str, float]
) -> None:
    """Computed again in double precision from the paper's formula; of two teachers the mean."""
    other = model_file(tmp_path / "other.safetensors", seed=1)
    job = job_of(large, other, **settings)
    student = nas.build(parse(SMALL), seed=2).eval()
    made, x, labels = teaching(job, student)
    with torch.no_grad():
        logits = student(x)
        hard = loss_of(logits, labels, job.recipe)
        found = float(made.loss(hard, logits, x))
        theirs = [load_model(file).network(x).double().numpy() for file in (large, other)]
    t, w = job.recipe.temperature, job.recipe.distill
    soft = np.mean([scipy.special.softmax(z / t, 1) for z in theirs], axis=0)
    own = scipy.special.log_softmax(logits.double().numpy() / t, 1)
    kl = np.sum(soft * (np.log(soft) - own), axis=1).mean()
    assert found == pytest.approx((1 - w) * float(hard) + w * t**2 * kl, rel=1e-4)


def test_held_outputs_and_those_of_a_batch_are_the_same(large: Path) -> None:
    student = nas.build(parse(SMALL), seed=2).eval()
    made, x, _ = teaching(job_of(large), student)
    assert made.held is not None
    again = dataclasses.replace(made, held=None)
    with torch.no_grad():
        losses = [float(t.loss(x.new_zeros(()), student(x), x))
                  for t in (made, again)]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    augmented, _, _ = teaching(job_of(large, crop=1), student)
    assert augmented.held is None  # an image is another each time, and so is what is said of it


def test_classes_in_another_order_teach_the_same(tmp_path: Path, large: Path) -> None:
    model = load_model(large)
    order = [3, 1, 0, 2, 9, 8, 7, 6, 5, 4]
    classes = tuple(model.classes[i] for i in order)
    head = list(model.network.children())[-1]
    for tensor in (head.weight, head.bias):
        tensor.data = tensor.data[order]
    turned = tmp_path / "turned.safetensors"
    save_model(turned, model.network, dataclasses.replace(model.card, classes=classes))
    student = nas.build(parse(SMALL), seed=2).eval()
    held = [teaching(job_of(file), student)[0].held for file in (large, turned)]
    assert torch.allclose(held[0], held[1], atol=1e-6)


def test_attention_is_learnt_where_maps_agree_in_size_whatever_their_width(large: Path) -> None:
    student = nas.build(parse(SMALL), seed=2)
    made, x, _ = teaching(job_of(large, attention=5.0), student)
    # After the first stage 8 x 8, after the second 4 x 4: the elements before POOL and before GAP.
    assert made.stages == (teacher.Stage(2, (2,)), teacher.Stage(6, (6,)))
    with made.watching():
        output = student(x)
        pulled = made.loss(output.sum() * 0, output, x)
    without = dataclasses.replace(made, stages=())
    assert pulled > without.loss(output.sum() * 0, output, x)
    pulled.backward()
    assert student[0].weight.grad.abs().sum() > 0
    assert not made.seen  # nothing is held afterwards
    itself = load_model(large).network
    same, _, _ = teaching(job_of(large, pattern=LARGE, attention=5.0), itself)
    with same.watching(), torch.no_grad():
        output = itself(x)
        assert float(same.loss(output.sum() * 0, output, x)) < 1e-4
    with pytest.raises(RecipeError, match="they have none"):
        teaching(job_of(large, pattern="INPUT -> FLATTEN -> FC", attention=1.0), student)


def test_attention_looks_past_auxiliary_classifiers(tmp_path: Path) -> None:
    """The map at which one branches off is that of the element before it."""
    branched = SMALL.replace("POOL", "AUX(width=4, hidden=8) -> POOL", 1)
    file = model_file(tmp_path / "branched.safetensors", branched)
    student = nas.build(parse(branched), seed=2)
    made, x, _ = teaching(job_of(file, pattern=branched, attention=5.0), student)
    assert made.stages == (teacher.Stage(2, (2,)), teacher.Stage(7, (7,)))
    with made.watching():
        output = student(x)
        made.loss(output[0].sum() * 0, output, x).backward()
    assert student[0].weight.grad.abs().sum() > 0


def test_a_student_learns_from_outputs_alone(large: Path, tmp_path: Path) -> None:
    """With all weight on the teacher, the student ends with the teacher's answers, not the labels':
    an untrained teacher knows nothing of these."""
    job = dataclasses.replace(job_of(large, distill=1.0, temperature=1.0), epochs=12)
    _, module, _ = train.begin(job, CPU)
    train.fit(module, job, lambda _: None, device=CPU)
    images = data.load(DIGITS, "test")
    pixels = torch.from_numpy(images.pixels[images.rows])
    own = Model(module, load_model(large).card).probabilities(pixels).argmax(1)
    theirs = load_model(large).probabilities(pixels).argmax(1)
    assert np.mean(own == theirs) > 0.7
    assert np.mean(own == images.labels[images.rows]) < 0.4


def test_interrupted_and_resumed_is_the_same_to_the_bit(large: Path, tmp_path: Path) -> None:
    job = dataclasses.replace(job_of(large, crop=1, attention=1.0), epochs=3)

    def trained(file: Path | None, stop: int = 9) -> dict[str, torch.Tensor]:
        _, module, _ = train.begin(job, CPU)

        def report(point: nas.job.Epoch) -> None:
            if point.epoch == stop:
                raise KeyboardInterrupt

        train.fit(module, job, report, device=CPU, checkpoint=file)
        return module.state_dict()

    file, was = tmp_path / "checkpoint", train.CHECKPOINT_SECONDS
    train.CHECKPOINT_SECONDS = 0
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(file, 2)
        resumed = trained(file)
    finally:
        train.CHECKPOINT_SECONDS = was
    assert all(torch.equal(resumed[k], v) for k, v in trained(None).items())


def test_a_result_under_a_teacher_stands_for_no_other(large: Path, tmp_path: Path) -> None:
    job, plain = job_of(large), Job(pattern=SMALL, epochs=1)
    elsewhere = tmp_path / "elsewhere" / "a.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(large.read_bytes())
    other = model_file(tmp_path / "other.safetensors", seed=1)
    assert job_of(elsewhere).key == job.key
    assert len({job.key, plain.key, job_of(other).key, job_of(large, temperature=4.0).key}) == 4
    assert Job(pattern=SMALL, epochs=1, recipe=Recipe()).key == plain.key
    both = job_of(large, other)
    assert both.key == job_of(other, large).key != job.key
    model = load_model(large)  # what a card tells besides changes no answer
    save_model(large, model.network, dataclasses.replace(model.card, metrics={"accuracy": 0.5}))
    assert job_of(large).key == job.key


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"classes": tuple("abcdefghij")}, "cannot teach here: it knows 10 classes and the images"),
        ({"classes": tuple("012")}, "it knows 3 classes and the images 10"),
        ({"input": (3, 8, 8)}, "it takes images of 3x8x8, and these are 1x8x8"),
        ({"input": (1, 16, 16)}, "it takes images of 1x16x16, and these are 1x8x8"),
    ],
)
def test_a_teacher_of_other_classes_or_input_is_refused(tmp_path: Path, change, told) -> None:
    file = model_file(tmp_path / "other.safetensors", **change)
    with pytest.raises(NasError, match=re.escape(told)):
        teaching(job_of(file), nas.build(parse(SMALL)))


def test_a_teacher_without_an_answer_is_refused(large: Path) -> None:
    held = load_model(large)
    weights = dict(held.network.named_parameters())
    name = min(weights)
    weights[name].data[..., 0] = math.nan
    save_model(large, held.network, held.card)
    with pytest.raises(NasError, match=f"cannot teach: {name} holds values that are not finite"):
        teaching(job_of(large), nas.build(parse(SMALL)))


def test_a_teacher_that_was_changed_or_is_not_there_is_refused(large: Path) -> None:
    job = job_of(large)
    model_file(large, seed=5)
    teacher.loaded.cache_clear()
    with pytest.raises(NasError, match="is not the one of the recipe"):
        teaching(job, nas.build(parse(SMALL)))
    with pytest.raises(RecipeError, match="given by --teacher"):
        teaching(dataclasses.replace(job, teachers=()), nas.build(parse(SMALL)))
    with pytest.raises(RecipeError, match=r"recipe\.distill is 0\.5: .* with a teacher"):
        Recipe(distill=0.5)


def test_a_gain_has_the_interval_of_its_pairs() -> None:
    rng = np.random.default_rng(0)
    control = rng.random(400) < 0.7
    way = np.where(rng.random(400) < 0.1, True, control)
    alike = Gain.of([way, way], [control, control])  # seeds that agree: images alone vary
    told = stats.ttest_1samp(way.astype(float) - control, 0).confidence_interval(0.95)
    assert (alike.low, alike.high) == pytest.approx((told.low, told.high), rel=1e-9)
    assert alike.sure
    assert np.isnan(Gain.of([way], [control]).low)
    assert not Gain.of([way], [control]).sure


def test_gains_of_nothing_are_seldom_sure() -> None:
    """Ten trainings of equal skill in pairs, 300 times: the interval misses 0 in 5% at most."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(300):
        easy = rng.beta(4, 1, 200)  # of each image, how often it is right
        skill = np.clip(easy + rng.normal(0, 0.02, (2, 5, 1)), 0, 1)
        way, control = rng.random((2, 5, 200)) < skill
        missed += Gain.of(list(way), list(control)).sure
    assert missed / 300 < 0.08


def test_the_time_left_is_told_from_the_first_epoch_on(capsys) -> None:
    """Epochs of 10 s, then of 20: the pace is that of all that were told, those of a resumed
    training among them."""
    way = Job(pattern=SMALL, epochs=2, seed=7)
    control = dataclasses.replace(way, epochs=4)
    tell = tell_epochs({"way": way, "control": control}, 2)
    for side, job, epoch, seconds, left in (
        ("way", way, 1, 10.0, "1 min 50 s"),  # 11 epochs
        ("way", way, 2, 20.0, "1 min 40 s"),
        ("control", control, 2, 40.0, "2 min 00 s"),  # 8 epochs of 60 s for 4
        ("control", dataclasses.replace(control, seed=8), 3, 60.0, "17 s"),  # of 120 s for 7
    ):
        tell(side, job, Epoch(epoch=epoch, train_loss=1.0, accuracy=0.5, seconds=seconds))
        assert capsys.readouterr().err.endswith(f"50.00 %, about {left} left\n")
    tell(
        "control",
        dataclasses.replace(control, seed=8),
        Epoch(epoch=4, train_loss=1.0, accuracy=0.5, seconds=80.0),
    )
    assert capsys.readouterr().err.endswith("50.00 %\n")


def test_distill_from_the_command_line(large: Path, tmp_path: Path, capsys) -> None:
    line = ("distill", "--teacher", large, "--student", SMALL, "--epochs", 2, "--seeds", 2,
               "-o", tmp_path / "out")  # fmt: skip
    assert command(*line) == 0
    out, told = capsys.readouterr()
    assert "gain on test:" in out
    assert "the student has" in told
    assert told.count("epoch 2 of 2") == 4
    assert "nas: 4 trainings, 8 epochs in all\nnas: distilled, seed 0, epoch 1 of 2" in told
    used, name = re.search(r"model to use: (\S+\.safetensors), (distilled|without a)", out).groups()
    taught = load_model(large).digest if name == "distilled" else None
    assert load_model(used).card.recipe.get("teacher") == taught
    cards = [load_model(f).card for f in (tmp_path / "out").glob("*.safetensors")]
    assert sorted((c.seed, "teacher" in c.recipe) for c in cards) == [
        (0, False), (0, True), (1, False), (1, True)]  # fmt: skip
    assert command(*line) == 0
    assert capsys.readouterr().out == out  # goes on, to the same


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (["--teacher", "resnet18"], "needs weights: --init resnet18, or a file"),
        (["--teacher", "nothere.safetensors"], "No such file"),
        (["--teacher", "resnet81"], "must be a model file, a trial number, front, or"),
        (["--teacher", "LARGE", "--seeds", "0"], "--seeds 0: must be 1 or more"),
        (["--teacher", "LARGE", "--epochs", "0"], "--epochs 0: must be"),
        (["--teacher", "LARGE", "--temperature", "-1"], "recipe.temperature is -1.0"),
        (
            ["--teacher", "LARGE", "--weight", "0.2", "--recipe", "lr=0.1,distill=0.3"],
            "--weight and --recipe distill are one setting: give one of the two",
        ),
        (["--teacher", "LARGE", "--student", "lenet_like"], "is a search space"),
        (["--teacher", "LARGE", "--init", "x"], "is only for a teacher from the zoo"),
    ],
)
def test_distill_refuses_wrong_input_with_the_reason(
    large: Path, tmp_path: Path, capsys, told, reason
) -> None:
    told = [str(large) if word == "LARGE" else word for word in told]
    if "--student" not in told:
        told += ["--student", SMALL]
    assert command("distill", *told, "-o", tmp_path / "out") == 2
    assert reason in capsys.readouterr().err


def test_a_student_of_a_study_is_trained_by_what_its_space_fixes(
    large: Path, tmp_path: Path
) -> None:
    space = tmp_path / "s.yaml"
    space.write_text(
        "name: s\npattern: INPUT -> CONV(width=w) -> GAP -> FC\nwhere: {w: {int: [2, 9]}}\n"
        "recipe: {batch: 16}\n"
    )
    record = ["--storage", f"sqlite:///{tmp_path}/nas.db", "--study", "s"]
    assert command("search", "--space", space, *record, "--trials", 1, "--epochs", 1,
                   "--workers", 0) == 0  # fmt: skip
    assert command("distill", "--teacher", large, "--student", SMALL, *record, "--seeds", 1,
                   "-o", tmp_path / "out") == 0  # fmt: skip
    cards = [load_model(file).card for file in (tmp_path / "out").glob("*.safetensors")]
    assert [card.recipe["batch"] for card in cards] == [16, 16]


def test_attention_where_no_maps_agree_is_refused_before_anything_is_counted(
    large: Path, tmp_path: Path, capsys
) -> None:
    told = ("--teacher", large, "--student", "INPUT -> FLATTEN -> FC", "--attention", 1)
    assert command("distill", *told, "-o", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "recipe.attention needs a map of equal height and width in student and teacher" in err
    assert "trainings" not in err
    assert "a student of" not in err
    assert not list((tmp_path / "out").glob("*"))


def test_a_search_under_a_teacher(large: Path, tmp_path: Path, capsys) -> None:
    storage = f"sqlite:///{tmp_path}/nas.db"
    line = ["search", "--space", "lenet_like", "--trials", "2", "--epochs", "1", "--workers",
               "0", "--storage", storage]  # fmt: skip
    assert command(*line, "--teacher", large) == 0
    rows = nas.api.Study("lenet_like-digits", storage).trials
    assert [row.recipe["teacher"] for row in rows] == [load_model(large).digest] * 2
    assert "taught by" in capsys.readouterr().out
    assert command(*line) == 2
    assert "recipe.teacher is" in capsys.readouterr().err
    moved = large.with_name("moved.safetensors")
    large.rename(moved)
    number = rows[0].number
    again = ("train", "--trial", number, "--epochs", 1, "--storage", storage, "-o", tmp_path / "t")
    capsys.readouterr()
    assert command(*again) == 2
    told = capsys.readouterr().err
    assert f"{large}, by which study lenet_like-digits learns, is gone: put it back, or" in told
    assert "nas search --teacher FILE" in told
    assert command(*line, "--teacher", moved) == 0  # the same model, elsewhere
    with contextlib.closing(open_store(storage)) as store:
        settings = store.find_study("lenet_like-digits").settings
    assert settings["teachers"] == [str(moved)]
    assert settings["taught"] == {load_model(moved).digest: [str(moved)]}
    assert command(*again) == 0
    capsys.readouterr()
    assert command("distill", "--teacher", "front", "--student", number, "--storage", storage,
                       "--epochs", 1, "--seeds", 1, "-o", tmp_path / "out") == 0  # fmt: skip
    assert "as one seed gives none" in capsys.readouterr().out


def test_an_evaluator_takes_no_teacher(large: Path) -> None:
    with pytest.raises(NasError, match="an evaluator does its own training"):
        nas.search("lenet_like", evaluator="a:b", teachers=[large])


def paired(treatment: np.ndarray, control: np.ndarray) -> Paired:
    """Arms of which these images are right, of each seed, on validation and on test."""
    return Paired(Arm((), treatment, treatment), Arm((), control, control))


def test_a_gain_is_told_by_what_it_is() -> None:
    """Of -46 points in two seeds, "no significant gain" was told, as of none at all."""
    told = {
        Gain(0.02, 0.01, 0.03): "a significant gain",
        Gain(0.01, -0.01, 0.03): "undecided, +1.00 points, as the interval includes 0",
        Gain(0.0, 0.0, 0.0): "undecided, +0.00 points, as the interval includes 0",
        Gain(0.01, math.nan, math.nan): "undecided, +1.00 points",
        Gain(-0.4583, -0.9633, 0.0467): "no gain: from scratch it is better by 45.83 points, "
        "though the interval includes 0",
        Gain(-0.02, -0.03, -0.01): "no gain: from scratch it is better by 2.00 points",
        Gain(-0.02, math.nan, math.nan): "no gain: from scratch it is better by 2.00 points",
    }
    assert {gain: smaller.verdict(gain, "from scratch") for gain in told} == told


def test_what_is_entered_is_the_model_to_use_and_without_a_sure_gain_says_so() -> None:
    _, (row, *_), _ = networks.study(1)
    right = np.tile(np.arange(100) < 80, (3, 1))
    more, luck = right.copy(), right.copy()
    more[:, 80:95], luck[0, 80] = True, True
    told = smaller.entered("alone", "s", row, "on the front", paired(luck, right))
    assert "as trial 0, on the front" in told
    assert "--trial 0 is the model above" in told
    assert told.endswith("points, as the interval includes 0")
    sure = smaller.entered("alone", "s", row, "on the front", paired(more, right))
    assert sure.endswith("as a trial is one training")
    assert "is no gain" in smaller.entered("alone", "s", row, "on the front", paired(right, luck))


@pytest.mark.slow
def test_a_student_that_its_teacher_harms_is_no_model_to_use(tmp_path: Path, capsys) -> None:
    """The teacher knows nothing, and the labels count for nothing: the control is better, which is
    told, and its file is the one to use, with a study and without one."""
    record = ["--storage", f"sqlite:///{tmp_path}/nas.db"]
    assert command("search", "--space", "lenet_like", *record, "--trials", 1, "--epochs", 1,
                   "--workers", 0) == 0  # fmt: skip
    teacher, out = model_file(tmp_path / "teacher.safetensors"), tmp_path / "out"
    line = ("distill", "--teacher", teacher, "--student", SMALL, "--weight", 1, "--epochs", 6,
            "--seeds", 2, "-o", out)  # fmt: skip
    for study in ((), ("--study", "lenet_like-digits", *record)):
        capsys.readouterr()
        assert command(*line, *study) == 0  # the second time of the first one's files
        told = capsys.readouterr()
        models = {file: load_model(file).card for file in out.glob("*.safetensors")}
        alone = {file: card for file, card in models.items() if not card.recipe.get("teacher")}
        assert (len(models), len(alone)) == (4, 2)
        best = max(alone, key=lambda file: alone[file].metrics["accuracy"])
        assert f"model to use: {best}, without a teacher, " in told.out
        assert "best of the seeds on validation" in told.out
        for part in ("validation", "test"):
            found = re.search(rf"gain on {part}: -(\S+) points \(.*\): no gain: (.*)", told.out)
            assert found[2].startswith(f"without a teacher it is better by {found[1]} points")
    first = next(file for file in models if file not in alone and models[file].seed == 0)
    said = rf"as trial 1, (not )?on the front\. It is no gain: --trial 1 is {first}, "
    assert re.search(said, told.err)
    better = (
        "without a teacher it is better on validation, and that one, the model above, is no trial"
    )
    assert better in told.err
