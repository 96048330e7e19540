"""The training loop: against a plain PyTorch loop; repetition and resumption are exact."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils import compute_class_weight
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import nas
from nas import data
from nas.data.batches import Prepare, Source, preparation, statistics
from nas.errors import NasError, RecipeError, StudyError
from nas.job import DataRef, Epoch, Failure, Job, Recipe, Result, schedule
from nas.job.outcome import Latency
from nas.training import candidate, device, states, train
from nas.training import checkpoint as checkpoints
from nas.training.graph import eager, forward_of
from nas.training.step import balanced, head_of, loss_of, optimizer_of

CPU = torch.device("cpu")
SMALL = (
    "INPUT(1, 8, 8) -> CONV(8) -> BN -> RELU -> RESIDUAL(8) -> POOL -> DROPOUT(0.2) -> FLATTEN"
    " -> FC(10)"
)
LEARNER = "INPUT -> CONV(16) -> BN -> RELU -> [RESIDUAL(16) -> POOL]*2 -> GAP -> FC"
EVERYTHING = Recipe(
    **{"resized_crop": 0.5, "crop": 1, "padding": "reflect", "flip": True, "photometric": True},
    **{"cutout": 2, "erase": 0.3, "mixup": 0.2, "cutmix": 1.0},
    **{"class_weights": "balanced", "ema": 0.99},
)


def silent(epoch: Epoch) -> None:
    pass


def job(pattern: str = SMALL, **changes: Any) -> Job:
    return Job(
        **({"pattern": pattern, "epochs": 3, "recipe": EVERYTHING, "latency": False} | changes)
    )


def trained(job: Job, **options: Any) -> tuple[nn.Module, tuple[Epoch, ...]]:
    module = nas.build(nas.parse(job.pattern), seed=job.seed)
    curve = train.fit(module, job, options.pop("report", silent), device=CPU, **options)
    return module, curve


def equal(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


def unclocked(curve: tuple[Epoch, ...]) -> list[tuple[int, float, float]]:
    return [(p.epoch, p.train_loss, p.accuracy) for p in curve]


def test_the_default_recipe_learns_the_digits() -> None:
    points: list[Epoch] = []
    result = candidate.evaluate(Job(pattern=LEARNER), points.append)
    assert isinstance(result, Result), result
    assert result.metrics["accuracy"] >= 0.97
    assert result.latency is not None
    assert result.latency.ms > 0
    assert list(result.curve) == points
    assert [p.epoch for p in points] == list(range(1, 21))
    assert points[-1].train_loss < points[0].train_loss
    assert all(a.seconds < b.seconds for a, b in pairwise(points))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_is_the_one_that_plain_pytorch_takes(name: str) -> None:
    """Two epochs beside torch's own one-cycle schedule, optimizer, loss and clipping, without our
    order, batches or normalisation: the same weights up to rounding."""
    lr = {"sgd": 0.05, "adamw": 0.002}[name]
    recipe = Recipe(optimizer=name, lr=lr, batch=128, weight_decay=0.01, clip=0.5, warmup=0.3)
    once = job(LEARNER, recipe=recipe, epochs=2, seed=4)
    ours, curve = trained(once)

    plain = nas.build(nas.parse(LEARNER), seed=4)
    images = data.load(DataRef(), "train")
    x = torch.from_numpy(images.pixels[images.rows]).float() / 255
    x = (x - x.mean()) / x.std(correction=0)
    y = torch.from_numpy(images.labels[images.rows])
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr)
    steps = len(x) // 128
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=2 * steps, pct_start=0.3, cycle_momentum=False
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    generator = torch.Generator().manual_seed(4)
    for epoch in range(2):
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for step in range(steps):
            rows = order[128 * step : 128 * (step + 1)]
            loss = criterion(plain(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
            cycle.step()
            total += loss.item()
        assert curve[epoch].train_loss == pytest.approx(total / steps, rel=1e-3)
    for mine, its in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_is_torchs_to_the_bit(name: str) -> None:
    recipe = Recipe(optimizer=name, lr=0.01)
    module = nas.build(nas.parse(LEARNER, (1, 8, 8), 10), seed=0)
    twin = copy.deepcopy(module)
    mine, stock = optimizer_of(module, recipe), optimizer_of(twin, recipe)
    stock.__class__ = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    for step in range(4):
        x = torch.rand(8, 1, 8, 8)
        for network, optimizer in ((module, mine), (twin, stock)):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
            if step == 1:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert equal(module, twin)


def test_a_training_does_not_import_the_compiler(tmp_path: Path) -> None:
    """Its import takes as long as that of torch, and 77 MiB of each process."""
    code = f"""
import sys
from nas.job import Epoch, Failure, Job, Recipe
from nas.training.candidate import evaluate
for name in ("sgd", "adamw"):
    recipe = Recipe(optimizer=name, lr=0.01, ema=0.9, freeze=1)
    file = {str(tmp_path)!r} + "/" + name
    job = Job(pattern="INPUT -> CONV(4) -> BN -> AUX -> GAP -> FC", epochs=2, recipe=recipe)
    def fails(epoch):
        raise KeyboardInterrupt
    for report in (fails, lambda epoch: None):  # the second goes on from the checkpoint
        try:
            told = evaluate(job, report, checkpoint=file)
            assert not isinstance(told, Failure), told
        except KeyboardInterrupt:
            pass
import nas
from nas.data.batches import Normal
from nas.training.card import Card
from nas.training.models import save_model
net = nas.parse("INPUT(1, 8, 8) -> CONV(4) -> BN -> GAP -> FC(2)")
card = Card(architecture=net, classes=("a", "b"), normal=Normal((0.5,), (0.5,)))
save_model(file, nas.build(net), card)
nas.load_model(file)
assert not {{"torch._dynamo", "sympy"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_small_network_takes_one_thread_unless_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = nas.parse(SMALL)
    large = nas.parse("INPUT(3, 224, 224) -> [CONV(16)]*2 -> GAP -> FC(10)")
    with device.with_threads(2):
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert [device.threads_for(network) for network in (small, large)] == [1, 2]
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert [device.threads_for(network) for network in (small, large)] == [2, 2]


def test_a_small_candidate_takes_one_thread_in_the_callers_process_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS")
    with device.with_threads(2):
        candidate.evaluate(job(epochs=1), lambda _: seen.append(torch.get_num_threads()))
        assert (seen, torch.get_num_threads()) == ([1], 2)


def test_a_seed_repeats_exactly_and_another_differs() -> None:
    first, curve = trained(job(seed=5))
    torch.rand(7)  # what else draws from torch's generator does not matter
    second, again = trained(job(seed=5))
    assert equal(first, second)
    assert unclocked(curve) == unclocked(again)
    assert not equal(first, trained(job(seed=6))[0])


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    candidate.evaluate(job(epochs=1), silent)
    assert torch.equal(torch.get_rng_state(), before)


def test_streamed_images_train_as_resident_ones_do() -> None:
    resident, streamed = trained(job()), trained(job(), budget=0)
    assert equal(resident[0], streamed[0])
    assert unclocked(resident[1]) == unclocked(streamed[1])


# Checkpoints.


class Interrupted(BaseException):
    pass


def interrupt_after(epoch: int) -> Callable[[Epoch], None]:
    """A report that ends the training one epoch later: the checkpoint of ``epoch`` stands."""

    def report(point: Epoch) -> None:
        if point.epoch == epoch + 1:
            raise Interrupted

    return report


@pytest.fixture
def each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.usefixtures("each_epoch")
@pytest.mark.parametrize(  # each optimiser under each schedule; amid one, and at a rung's end
    ("optimizer", "name", "epoch"),
    [
        ("sgd", "one_cycle", 1),
        ("adamw", "one_cycle", 3),
        ("sgd", "rungs", 3),
        ("adamw", "rungs", 3),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    optimizer: str, name: str, epoch: int, tmp_path: Path
) -> None:
    changes = {"schedule": name, "optimizer": optimizer, "freeze": 2}
    recipe = dataclasses.replace(EVERYTHING, **changes)
    path = tmp_path / "new" / "c"
    whole = job(epochs=6, recipe=recipe)
    expected, curve = trained(whole)
    with pytest.raises(Interrupted):
        trained(whole, checkpoint=path, report=interrupt_after(epoch))
    seen: list[Epoch] = []
    resumed, again = trained(whole, checkpoint=path, report=seen.append)
    assert equal(resumed, expected)
    assert unclocked(again) == unclocked(curve)
    assert tuple(seen) == again
    assert all(a.seconds < b.seconds for a, b in pairwise(again))


@pytest.mark.usefixtures("each_epoch")
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"",
    ],
    ids=["cut", "a flipped bit", "empty"],
)
def test_a_torn_checkpoint_is_set_aside_for_the_one_before(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    whole = job(epochs=4)
    with pytest.raises(Interrupted):
        trained(whole, checkpoint=path, report=interrupt_after(2))
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        resumed, _ = trained(whole, checkpoint=path)
    assert "set aside" in caplog.text
    assert (tmp_path / "c.torn").exists()
    assert equal(resumed, trained(whole)[0])


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first, curve = trained(job(), checkpoint=tmp_path / "c")
    second, again = trained(job(), checkpoint=tmp_path / "c")
    assert equal(first, second)
    assert again == curve


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    trained(job(epochs=1), checkpoint=tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(StudyError, match="another training"):
        trained(job(epochs=1, seed=1), checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_a_checkpoint_from_other_initial_weights_is_refused(tmp_path: Path) -> None:
    weights, path = tmp_path / "w.pt", tmp_path / "c"
    whole = job(epochs=1, recipe=Recipe(init=str(weights)))
    for seed in (0, 0, 1):
        torch.save(nas.build(nas.parse(whole.pattern), seed=seed).state_dict(), weights)
        if seed == 0:
            trained(whole, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(StudyError, match=r"c began from other weights than .*w\.pt has now"):
        trained(whole, checkpoint=path)
    assert path.read_bytes() == before


def test_a_training_goes_on_whatever_is_known_of_its_latency(tmp_path: Path) -> None:
    """A candidate that was measured at its first rung, or whose bound was moved meanwhile."""
    with pytest.raises(Interrupted):
        trained(job(epochs=2), checkpoint=tmp_path / "c", report=interrupt_after(1))
    known = {"a device": Latency(ms=1.0, low=0.9, high=1.1, device="a device")}
    later = dataclasses.replace(job(epochs=2), known=known, most_ms={"": 5.0})
    assert equal(trained(later, checkpoint=tmp_path / "c")[0], trained(job(epochs=2))[0])


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (tmp_path / "owned",)

    checkpoints.save(tmp_path / "c", {"module": Hostile()})
    assert pickle.dumps(Hostile())  # it would run, if it were let
    assert checkpoints.load(tmp_path / "c") is None
    assert not (tmp_path / "owned").exists()


def test_a_disk_that_takes_no_checkpoint_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        module, _ = trained(job(), checkpoint=tmp_path / "file" / "c")
    assert "no checkpoint written" in caplog.text
    assert equal(module, trained(job())[0])


def test_saving_keeps_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for n in range(3):
        checkpoints.save(tmp_path / "c", {"n": n})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.previous"]
    assert checkpoints.load(tmp_path / "c") == {"n": 2}
    (tmp_path / "c").unlink()  # as if the power had failed between the two renames
    assert checkpoints.load(tmp_path / "c") == {"n": 1}


# Schedules.


@pytest.mark.parametrize(("steps", "epochs", "warmup"), [(16, 20, 0.2), (7, 3, 0.5), (3, 1, 0.3)])
def test_one_cycle_is_torchs(steps: int, epochs: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps * epochs, pct_start=warmup, cycle_momentum=False
    )
    for step in range(steps * epochs):
        ours = schedule.one_cycle(step, steps, epochs, warmup)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


def test_rungs_agree_until_their_tails_and_end_near_zero() -> None:
    steps = 10
    for short, long in ((2, 6), (6, 18), (18, 20)):
        for step in range((short - schedule.tail(short)) * steps):
            assert schedule.rungs(step, steps, short, 0.2) == schedule.rungs(step, steps, long, 0.2)
    curve = [schedule.rungs(step, steps, 8, 0.2) for step in range(80)]
    assert curve[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert set(curve[10:60]) == {1.0}
    assert curve[60:] == pytest.approx([n / 21 for n in range(20, 0, -1)])


@pytest.mark.parametrize("name", schedule.SCHEDULES)
def test_every_schedule_stays_between_0_and_1_for_any_length(name: str) -> None:
    for steps in (1, 2, 9):
        for epochs in (1, 2, 5):
            rates = [schedule.SCHEDULES[name](n, steps, epochs, 0.2) for n in range(steps * epochs)]
            assert all(0 < rate <= 1 for rate in rates)
            assert not any(map(math.isnan, rates))


def test_a_promoted_candidate_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = dataclasses.replace(EVERYTHING, schedule="rungs")
    path = tmp_path / "c"
    for epochs in (2, 4, 8):
        promoted, curve = trained(job(epochs=epochs, recipe=recipe), checkpoint=path)
        alone, expected = trained(job(epochs=epochs, recipe=recipe))
        assert equal(promoted, alone)
        assert unclocked(curve) == unclocked(expected)
    with pytest.raises(StudyError, match=r"at epoch 6: 4 epochs can resume from 3"):
        trained(job(epochs=4, recipe=recipe), checkpoint=path)


# The recipe.


def test_auxiliary_losses_are_weighed_and_gone_in_evaluation() -> None:
    recipe = Recipe(aux=0.5, label_smoothing=0.2)
    logits, aux = torch.randn(6, 4), [torch.randn(6, 4), torch.randn(6, 4)]
    y = torch.arange(6) % 4
    criterion = nn.CrossEntropyLoss(label_smoothing=0.2)
    expected = criterion(logits, y) + 0.5 * criterion(aux[0], y) + 0.5 * criterion(aux[1], y)
    assert torch.allclose(loss_of((logits, aux), y, recipe), expected)
    assert torch.allclose(loss_of(logits, y, recipe), criterion(logits, y))


def test_classes_weigh_as_in_torchs_loss_the_auxiliary_ones_too() -> None:
    recipe = Recipe(aux=0.5, class_weights="balanced")
    logits, aux = torch.randn(6, 3), [torch.randn(6, 3)]
    y = torch.tensor([0, 0, 0, 1, 0, 2])
    each = balanced(y.numpy(), 3)
    assert each.tolist() == pytest.approx([6 / (3 * 4), 6 / 3, 6 / 3])
    criterion = nn.CrossEntropyLoss(each, label_smoothing=0.1)
    for labels in (y, nn.functional.one_hot(y, 3).float()):  # of mixed images, probabilities
        expected = criterion(logits, labels) + 0.5 * criterion(aux[0], labels)
        assert torch.allclose(loss_of((logits, aux), labels, recipe, each), expected)


def test_balanced_weights_are_scikit_learns_over_the_classes_that_occur() -> None:
    y = np.array([0] * 50 + [2] * 5 + [3] * 20)
    expected = compute_class_weight("balanced", classes=np.unique(y), y=y)
    assert balanced(y, 5).tolist() == pytest.approx([expected[0], 0, expected[1], expected[2], 0])


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> DataRef:
    """Digits, of which there are fewer the higher they are: 10 to 1."""
    rng = np.random.RandomState(0)

    def read(_: DataRef, part: data.Part) -> data.Images:
        images = data.load(DataRef(), part)
        labels = images.labels[images.rows]
        kept = rng.uniform(size=len(labels)) < 10.0 ** (-labels / 9)
        return dataclasses.replace(images, rows=images.rows[kept])

    parts = {part: read(DataRef(), part) for part in ("train", "validation")}
    info = dataclasses.replace(data.describe(DataRef()), parts=tuple(parts))
    found = data.Dataset(about="", describe=lambda _: info, read=lambda _, part: parts[part])
    monkeypatch.setitem(data.DATASETS, "uneven", found)
    return DataRef(name="uneven", dir=str(id(monkeypatch)))  # loaded anew for each test


def test_the_balanced_accuracy_is_scikit_learns(uneven: DataRef) -> None:
    told = job(LEARNER, data=uneven, epochs=2, recipe=Recipe())
    result = candidate.evaluate(told, silent)
    assert isinstance(result, Result), result
    module, curve = trained(told)
    held = data.load(uneven, "validation")
    prepare = preparation(statistics(data.load(uneven, "train")), (8, 8))
    with torch.inference_mode():
        found = module.eval()(prepare(torch.from_numpy(held.pixels[held.rows]))).argmax(1)
    expected = balanced_accuracy_score(held.labels[held.rows], found)
    assert curve[-1].balanced_accuracy == pytest.approx(expected, abs=1e-9)
    assert result.metrics["balanced_accuracy"] == result.curve[-1].balanced_accuracy
    assert abs(expected - curve[-1].accuracy) > 0.01, "the test tells the two apart"


def test_a_training_weighs_the_classes_by_its_own_images(uneven: DataRef) -> None:
    """At a learning rate at which nothing is learned, its loss beside one computed here."""
    recipe = Recipe(lr=1e-12, class_weights="balanced", batch=100)
    module, curve = trained(job("INPUT -> FLATTEN -> FC", data=uneven, epochs=1, recipe=recipe))
    images = data.load(uneven, "train")
    labels = images.labels[images.rows]
    each = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    criterion = nn.CrossEntropyLoss(torch.from_numpy(each).float(), label_smoothing=0.1)
    x = preparation(statistics(images), (8, 8))(torch.from_numpy(images.pixels[images.rows]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        losses = [
            criterion(module(x[rows]), torch.from_numpy(labels)[rows]).item()
            for rows in order.split(100)
            if len(rows) == 100
        ]
    assert curve[0].train_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    plain = dataclasses.replace(recipe, class_weights="none")
    other = trained(job("INPUT -> FLATTEN -> FC", data=uneven, epochs=1, recipe=plain))[1]
    assert abs(other[0].train_loss / curve[0].train_loss - 1) > 1e-3


def test_what_is_scored_and_kept_is_the_average_of_the_weights(tmp_path: Path) -> None:
    """Beside an average computed here, in doubles, from the weights after each step."""
    module = nas.build(nas.parse(SMALL), seed=0)
    steps: list[dict[str, torch.Tensor]] = []

    def note(*_: Any) -> None:
        steps.append({k: v.double() for k, v in module.state_dict().items()})

    told = job(recipe=Recipe(ema=0.8, batch=256), epochs=3)
    hook = register_optimizer_step_post_hook(note)
    try:
        path = tmp_path / "c"
        curve = train.fit(module, told, silent, device=CPU, checkpoint=path)
    finally:
        hook.remove()
    assert len(steps) == 12
    expected = steps[0]
    for n, step in enumerate(steps[1:], 1):
        decay = min(0.8, (1 + n) / (10 + n))
        expected = {k: decay * expected[k] + (1 - decay) * step[k] for k in step}
    floats = [k for k, v in module.state_dict().items() if v.is_floating_point()]
    assert any("running_var" in name for name in floats)
    for name in floats:
        assert torch.allclose(module.state_dict()[name].double(), expected[name], atol=1e-5), name
    assert not torch.allclose(expected[floats[0]], steps[-1][floats[0]], atol=1e-3)
    validation = train.score(module, told.data, part="validation")
    assert curve[-1].accuracy == pytest.approx(validation, abs=1e-9)
    # What starts from the checkpoint starts from the average; a finished one gives it again.
    state, _ = states.read(path)
    assert all(torch.equal(state[name], module.state_dict()[name]) for name in floats)
    assert equal(trained(told, checkpoint=path)[0], module)


def test_freeze_trains_the_head_alone_first() -> None:
    pattern = "INPUT -> CONV(8) -> BN -> RELU -> GAP -> FC"
    before = nas.build(nas.parse(pattern), seed=0).state_dict()
    snapshots: list[dict[str, torch.Tensor]] = []
    module = nas.build(nas.parse(pattern), seed=0)

    def report(point: Epoch) -> None:
        snapshots.append(copy.deepcopy(module.state_dict()))

    train.fit(module, job(pattern, recipe=Recipe(freeze=1), epochs=2), report, device=CPU)
    changed = [
        {name for name in before if not torch.equal(before[name], snapshot[name])}
        for snapshot in snapshots
    ]
    head = {name for name in before if name.startswith(head_of(module)[0])}
    assert changed[0] == head
    assert changed[1] == {*before}
    with pytest.raises(RecipeError, match="freeze is 3: must be below the 3 epochs"):
        trained(job(recipe=Recipe(freeze=3)))


def test_training_goes_on_from_weights_in_a_file(tmp_path: Path) -> None:
    first, _ = trained(job(LEARNER, epochs=8, recipe=Recipe()))
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    known = train.score(first, DataRef(), part="validation")
    recipe = Recipe(init=str(tmp_path / "weights.pt"), lr=1e-6)
    on = candidate.evaluate(job(LEARNER, epochs=1, recipe=recipe), silent)
    assert isinstance(on, Result), on
    assert on.metrics["accuracy"] == pytest.approx(known, abs=0.02)
    missing = candidate.evaluate(job(LEARNER, recipe=Recipe(init=str(tmp_path / "no.pt"))), silent)
    assert isinstance(missing, Failure)
    assert "no.pt" in missing.reason


def test_score_counts_what_the_network_gets_right_on_the_test_images() -> None:
    module, _ = trained(job(LEARNER, epochs=4, recipe=Recipe()))
    train_images, test_images = data.load(DataRef(), "train"), data.load(DataRef(), "test")
    normal = statistics(train_images)
    right = 0
    module.eval()
    for row in test_images.rows:
        x = torch.from_numpy(test_images.pixels[row : row + 1]).float() / 255
        logits = module((x - normal.mean[0]) / normal.std[0])
        right += int(logits.argmax().item() == test_images.labels[row])
    assert train.score(module, DataRef()) == pytest.approx(right / len(test_images), abs=1e-9)


# What goes wrong with a candidate is a value.


def test_divergence_names_the_epoch_and_the_step() -> None:
    recipe = Recipe(lr=100.0, clip=0.0, weight_decay=10.0)
    pattern = "INPUT -> [CONV(8)]*3 -> FLATTEN -> FC"
    failure = candidate.evaluate(job(pattern, recipe=recipe, epochs=5), silent)
    assert isinstance(failure, Failure)
    assert failure.kind == "diverged"
    assert "epoch" in failure.reason
    assert "step" in failure.reason or "validation" in failure.reason


def test_logits_that_are_not_finite_are_no_accuracy() -> None:
    source = Source.of(data.load(DataRef(), "validation"), CPU)
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(broken[1].weight, math.inf)
    prepare = Prepare((8, 8), lambda pixels: pixels.float())
    forward = forward_of(broken, CPU, bf16=False)
    assert math.isnan(train.scores_of(forward, source, prepare).accuracy)


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"pattern": "INPUT(3, 32, 32) -> FC(10)"}, "error", "3, 32, 32.*1x8x8"),
        ({"pattern": "INPUT -> FC(7)"}, "error", "7 features.* 10 classes"),
        ({"pattern": "INPUT -> CONVV -> FC"}, "error", "CONV"),
        ({"data": DataRef(name="mnist", dir="/nowhere")}, "error", "/nowhere does not exist"),
    ],
)
def test_a_candidate_that_cannot_be_trained_is_a_failure_with_a_reason(
    changes: dict[str, Any], kind: str, reason: str
) -> None:
    failure = candidate.evaluate(job(**changes), silent)
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert re.search(reason, failure.reason), failure.reason


def test_a_candidate_out_of_memory_is_told_from_other_errors() -> None:
    code = """
import resource
from nas.job import Job
from nas.training.candidate import evaluate
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # the weights alone take 17 GB
print(evaluate(Job(pattern="INPUT -> FLATTEN -> [FC(65536)]*2 -> FC"), print).kind)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "out_of_memory\n"


def test_a_failure_keeps_the_curve_so_far() -> None:
    def report(point: Epoch) -> None:
        if point.epoch == 2:
            raise RuntimeError("the driver went away")

    failure = candidate.evaluate(job(), report)
    assert isinstance(failure, Failure)
    assert len(failure.curve) == 2
    assert "the driver went away" in failure.reason


def test_bad_recipes_are_refused() -> None:
    with pytest.raises(NasError, match="schedule is 'cosine': must be one of one_cycle, rungs"):
        Recipe(schedule="cosine")


@pytest.mark.parametrize(
    ("body", "profits"),
    [
        ("CONV(256)", True),
        ("CONV(2)", False),  # too few MACs
        ("CONV(32, 1) -> MBCONV(128)", True),
        ("CONV(32, 1) -> MBCONV(256, stride=2)", False),  # strided depthwise: slow
        ("[CONV(64) -> POOL]*3 -> RESIDUAL(64, stride=2)", False),  # 3x3 strides over 1x1: wrong
    ],
)
def test_bf16_on_a_cpu_is_for_what_it_makes_faster_and_computes(body: str, profits: bool) -> None:
    architecture = nas.parse(f"INPUT(16, 8, 8) -> {body} -> GAP -> FC(10)")
    can = torch.cpu.get_capabilities()
    native = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    assert device.bf16_pays(architecture, CPU) == (profits and native)


def test_a_stride_over_a_map_smaller_than_the_kernel_trains() -> None:
    """In bf16 on the CPU its weight gradient was NaN: the loss with it, after a few steps."""
    told = job(pattern="INPUT -> [CONV(64) -> RELU -> POOL]*3 -> RESIDUAL(54, 5, 2)*2 -> GAP -> FC")
    assert isinstance(candidate.evaluate(told, lambda _: None), Result)


def test_what_a_trial_has_in_the_end_is_of_the_network_in_full_precision() -> None:
    told = job(epochs=3)
    module = nas.build(nas.parse(told.pattern), seed=told.seed)
    seen: list[torch.dtype] = []

    def look(own: nn.Module, _: Any, out: torch.Tensor) -> None:
        if not own.training:
            seen.append(out.dtype)

    module.register_forward_hook(look)
    curve = train.fit(module, told, silent, device=CPU, bf16=True)
    batches = len(seen) // told.epochs
    assert seen == [torch.bfloat16] * 2 * batches + [torch.float32] * batches
    assert curve[-1].accuracy == train.score(module, told.data, part="validation", device=CPU)


def test_bf16_training_learns_and_repeats_exactly() -> None:
    curves = [trained(job(LEARNER, recipe=Recipe(), epochs=8), bf16=True)[1] for _ in range(2)]
    assert unclocked(curves[0]) == unclocked(curves[1])
    assert curves[0][-1].accuracy > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_and_resumes(tmp_path: Path, each_epoch: None) -> None:
    result = candidate.evaluate(Job(pattern=LEARNER), silent)
    assert isinstance(result, Result), result
    assert result.metrics["accuracy"] >= 0.97
    with pytest.raises(Interrupted):
        candidate.evaluate(Job(pattern=LEARNER), interrupt_after(5), checkpoint=tmp_path / "c")
    resumed = candidate.evaluate(Job(pattern=LEARNER), silent, checkpoint=tmp_path / "c")
    assert isinstance(resumed, Result), resumed
    assert resumed.metrics["accuracy"] >= 0.97


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("pattern", "recipe"),
    [
        (LEARNER, Recipe()),
        (LEARNER, Recipe(optimizer="adamw", lr=0.002, ema=0.9, mixup=0.2)),
        (
            "INPUT -> CONV(16) -> BN -> RELU -> DROPOUT(0.3) -> AUX -> CONV(16) -> GAP -> FC",
            Recipe(),
        ),
        ("INPUT -> CONV(8) -> BN -> RELU -> RESIDUAL(16) -> GAP -> FC", Recipe(freeze=1, clip=0)),
    ],
)
def test_a_captured_step_does_what_the_step_does(
    pattern: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # By the same kernels, added up in the same order: others differ in the last bit, and a training
    # makes that grow.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    told = job(pattern, recipe=recipe, epochs=2)
    cuda = torch.device("cuda")
    states, curves = [], []
    for captured in (True, False):
        if not captured:
            monkeypatch.setattr(train, "step_of", eager)
        _, module, _ = train.begin(told, cuda)
        curves.append(train.fit(module, told, silent, device=cuda))
        states.append(module.state_dict())
    assert caplog.text == "", "not captured"
    for one, other in zip(*curves, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's own look-out for what waits, in the second epoch: the first one captures."""
    train_epoch, calls = train.train_epoch, []

    def strict(*told: Any) -> list[torch.Tensor]:
        calls.append(told)
        torch.cuda.set_sync_debug_mode("error" if len(calls) > 1 else "default")
        try:
            return train_epoch(*told)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(train, "train_epoch", strict)
    recipe = Recipe(
        ema=0.9, crop=1, flip=True, mixup=0.2, cutmix=1.0, erase=0.3, cutout=2, photometric=True
    )
    told, cuda = job(LEARNER, recipe=recipe, epochs=2), torch.device("cuda")
    _, module, _ = train.begin(told, cuda)
    train.fit(module, told, silent, device=cuda, bf16=True)
    assert len(calls) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_forward_is_the_module() -> None:
    """After its weights have changed too, and on a batch that is smaller than the first."""
    cuda = torch.device("cuda")
    _, module, _ = train.begin(job(LEARNER), cuda)
    module.to(cuda).eval()
    forward, x = forward_of(module, cuda, bf16=False), torch.randn(32, 1, 8, 8, device=cuda)
    for count in (32, 32, 32, 32, 5, 32):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.01)
            torch.testing.assert_close(forward(x[:count]), module(x[:count]), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_cannot_be_captured_is_trained_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """A layer that reads a number back makes the host wait: no graph can hold that."""

    class Reads(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * max(1.0, x.mean().item())

    told = job(LEARNER, epochs=2)
    cuda = torch.device("cuda")
    _, module, _ = train.begin(told, cuda)
    curve = train.fit(torch.nn.Sequential(Reads(), module), told, silent, device=cuda)
    assert len(curve) == 2
    assert curve[1].train_loss < curve[0].train_loss
    assert caplog.text.count("without a CUDA graph") == 1


@pytest.mark.parametrize("pattern", [
    "CONV(4) -> GAP -> BN -> FC",
    "CONV(4) -> BN -> GAP -> FC",
    "CONV(4) -> POOL(8) -> RESIDUAL(4) -> FC",
    "CONV(4) -> POOL(4) -> RESIDUAL(4) -> FC",
    "CONV(4) -> POOL(8) -> AUX -> FC",
    "FC(5) -> BN -> FC",
    "CONV(4) -> GAP -> FC",
])  # fmt: skip
@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_is_refused_where_torch_cannot_normalise_it(
    pattern: str, batch: int
) -> None:
    asked = job("INPUT -> " + pattern, recipe=Recipe(batch=batch), epochs=1)
    images = torch.rand(batch, 1, 8, 8)
    try:
        nas.build(nas.parse(asked.pattern, (1, 8, 8), 10)).train()(images)
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)  # noqa: PT017
        with pytest.raises(
            RecipeError, match=r"batches are of 1 image: .* the BN in element [123]"
        ):
            train.begin(asked, CPU)
        outcome = candidate.evaluate(asked, silent)
        assert isinstance(outcome, Failure)
        assert outcome.kind == "error"
        assert outcome.reason.startswith("batches are of 1 image: must be of 2 or more")
    else:
        train.begin(asked, CPU)
