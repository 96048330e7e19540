"""The recipe: its rules, its names, and records from before a setting existed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.cli.options import audited, plan, single_job
from nas.cli.settings import read_recipe, recipe_in
from nas.driver.plan import Plan
from nas.errors import NasError, NothingFound, RecipeError, StudyError
from nas.job import DataRef, Job, Recipe
from nas.job.recipe import LATER, RECIPES
from nas.report.reproduce import search_command
from nas.spaces.draws import Draw
from nas.spaces.space import load_space
from nas.store import Ask, Study, StudyRow, open_store
from nas.store.sameness import first_difference

# As the first version wrote a recipe without settings.
FIRST = {
    "batch": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "label_smoothing": 0.1,
    "warmup": 0.2, "clip": 1.0, "crop": 0, "flip": False, "cutout": 0, "aux": 0.3, "init": "",
    "freeze": 0, "schedule": "one_cycle",
}  # fmt: skip
CHANGED: dict[str, Any] = {
    "padding": "reflect", "resized_crop": 0.08, "photometric": True, "erase": 0.25, "mixup": 0.2,
    "cutmix": 1.0, "class_weights": "balanced", "optimizer": "adamw", "ema": 0.999,
    "teacher": "0123456789abcdef",
}  # fmt: skip
# Only with a teacher are they told.
TAUGHT: dict[str, Any] = {"distill": 0.5, "temperature": 4.0, "attention": 10.0}


def drawn(rng: random.Random) -> Recipe:
    """A recipe with each setting at its default or elsewhere."""
    elsewhere = CHANGED | {
        "batch": 7, "lr": 0.03, "momentum": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0,
        "warmup": 0.5, "clip": 0.0, "crop": 2, "flip": True, "cutout": 3, "aux": 1.0,
        "init": "resnet18", "freeze": 1, "schedule": "rungs",
    }  # fmt: skip
    told = {name: value for name, value in elsewhere.items() if rng.random() < 0.5}
    return Recipe(**told, **(TAUGHT if "teacher" in told else {}))


def test_what_was_recorded_before_a_setting_came_stays_valid() -> None:
    assert Recipe().plain() == FIRST
    assert Recipe.of(FIRST) == Recipe()


@pytest.mark.parametrize("name", ["key", "training_key"])
def test_keys_are_those_of_the_first_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is digested holds nothing of settings that it did not know."""
    seen: list[bytes] = []
    digest = hashlib.sha256

    def note(told: bytes) -> Any:
        seen.append(told)
        return digest(told)

    monkeypatch.setattr(hashlib, "sha256", note)
    job = Job(pattern="x")
    assert getattr(job, name)
    assert json.loads(seen[0])["recipe"] == FIRST


def test_later_settings_are_all_that_the_first_version_lacked() -> None:
    assert {f.name for f in dataclasses.fields(Recipe)} == {*FIRST, *LATER}
    assert {*CHANGED, *TAUGHT} == LATER


@pytest.mark.parametrize("name", CHANGED)
def test_each_setting_makes_another_evaluation(name: str) -> None:
    changed = Job(pattern="x", recipe=Recipe(**{name: CHANGED[name]}))
    assert changed.key != Job(pattern="x").key
    assert changed.training_key != Job(pattern="x").training_key


@pytest.mark.parametrize("name", TAUGHT)
def test_each_setting_of_a_teacher_makes_another_evaluation(name: str) -> None:
    taught = Recipe(teacher=CHANGED["teacher"])
    changed = Job(pattern="x", recipe=taught.but({name: TAUGHT[name]}))
    assert changed.key != Job(pattern="x", recipe=taught).key
    with pytest.raises(RecipeError, match=f"recipe.{name} is .* with a teacher"):
        Recipe(**{name: TAUGHT[name]})


def test_a_recipe_survives_as_plain_data() -> None:
    rng = random.Random(0)
    for _ in range(300):
        recipe = drawn(rng)
        assert Recipe.of(recipe.plain()) == recipe


def test_a_study_from_before_goes_on_and_another_recipe_is_refused(tmp_path: Path) -> None:
    space = load_space("lenet_like", (1, 8, 8), 10)
    now = Plan(study="s", space=space, job=Job(pattern=""), trials=1).row()
    before: Study = dataclasses.replace(now, recipe=FIRST)
    store = open_store(f"sqlite:///{tmp_path}/record.db", create=True)
    kept = store.open_study(before)
    store.begin(kept, [Ask(pattern="x", fingerprint="f", params=1, macs=1)])
    assert store.open_study(now) == kept
    other = dataclasses.replace(Job(pattern=""), recipe=Recipe(mixup=0.2))
    with pytest.raises(StudyError, match=r"recipe\.mixup is absent in the study and 0\.2 now"):
        store.open_study(Plan(study="s", space=space, job=other, trials=1).row())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": "black"}, "recipe.padding is 'black': must be one of constant, reflect"),
        ({"resized_crop": 1.5}, "recipe.resized_crop is 1.5: must be a fraction of the area"),
        ({"erase": -0.1}, "recipe.erase is -0.1: must be a probability"),
        ({"mixup": float("nan")}, "recipe.mixup is nan: must be a number from 0"),
        ({"cutmix": float("inf")}, "recipe.cutmix is inf: must be a number from 0"),
        ({"class_weights": "even"}, "recipe.class_weights is 'even': must be one of none, bal"),
        ({"optimizer": "adam"}, "recipe.optimizer is 'adam': must be one of sgd, adamw"),
        ({"ema": 1.0}, "recipe.ema is 1.0: must be a decay from 0"),
        ({"photometric": 1}, "recipe.photometric is 1: must be of type bool"),
        ({"mixupp": 1.0}, "recipe.mixupp is unknown: did you mean mixup?"),
    ],
)
def test_what_is_no_setting_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.of(settings)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Recipe) if isinstance(f.default, float)]
)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400, -(10**400)])
def test_no_setting_is_a_number_that_json_and_a_float_cannot_hold(name: str, value: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        json.dumps(float(value), allow_nan=False)
    taught = Recipe(teacher=CHANGED["teacher"])
    with pytest.raises(RecipeError, match=rf"^recipe\.{name} is .*: must be [a-z]"):
        Recipe.of({name: value}, taught)


# --- the learning rate of each optimizer ---------------------------------------------------------


def test_an_optimizer_comes_with_its_usual_learning_rate() -> None:
    assert Recipe().lr == Recipe(lr=0).lr == 0.1
    assert Recipe(optimizer="adamw").lr == Recipe().but({"optimizer": "adamw"}).lr == 0.001
    assert Recipe(optimizer="adamw", lr=0.1).lr == 0.1
    assert Recipe(lr=0.02).but({"optimizer": "adamw"}).lr == 0.02
    assert Recipe(optimizer="adamw").but({"optimizer": "sgd"}).lr == 0.1
    assert Recipe(optimizer="adamw").but({"flip": True}).lr == 0.001


def test_a_space_may_choose_the_optimizer(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\npattern: INPUT -> CONV(8) -> GAP -> FC\n"
        "recipe: {optimizer: {choice: [sgd, adamw]}, mixup: {float: [0.0, 0.4]}}\n"
    )
    space = load_space(str(file), (1, 8, 8), 10)
    found = [space.suggest_recipe(Draw(random.Random(n))) for n in range(30)]
    assert {(r.optimizer, r.lr) for r in found} == {("sgd", 0.1), ("adamw", 0.001)}


# --- names ---------------------------------------------------------------------------------------


def test_a_name_sets_a_base_and_settings_overrule_it() -> None:
    for name, recipe in RECIPES.items():
        assert read_recipe([name]) == recipe != Recipe()
        assert read_recipe([name, "batch=17"]) == dataclasses.replace(recipe, batch=17)
    assert read_recipe([]) == Recipe()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["smal"], "did you mean small?"),
        (["small", "imagenet"], "--recipe imagenet: one recipe's name at most, before any setting"),
        (["lr=0.2", "small"], "--recipe small: one recipe's name at most, before any setting"),
        (["small", "lrr=1"], "--recipe lrr=1: unknown setting; did you mean lr?"),
    ],
)
def test_names_that_are_none_or_come_too_late_are_refused(
    settings: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        read_recipe(settings)
    assert message in str(refused.value)


# --- beside a space that fixes or searches some --------------------------------------------------

STACK = (
    "name: s\npattern: INPUT -> CONV(width=w) -> RELU -> GAP -> FC\nwhere: {w: {int: [1, 30]}}\n"
)


def spaced(folder: Path, recipe: str, pattern: str = STACK) -> Path:
    file = folder / "s.yaml"
    file.write_text(f"{pattern}recipe: {recipe}\n")
    return file


def searched(space: Path, *recipe: str, epochs: int = 1, **options: Any) -> Plan:
    return plan(str(space), DataRef(), epochs=epochs, recipe=recipe, **options)


@pytest.mark.parametrize(
    ("own", "told", "reason"),
    [
        ("{lr: 0.5}", "lr=0.01", "lr=0.01: the space s fixes it at 0.5, under recipe.lr"),
        ("{lr: {float: [0.1, 1]}}", "lr=0.2", "lr=0.2: the space s searches it, under recipe.lr"),
        ("{flip: yes}", "flip=no", "flip=False: the space s fixes it at True, under recipe.flip"),
    ],
)
def test_a_setting_is_told_in_one_place(tmp_path: Path, own: str, told: str, reason: str) -> None:
    space = spaced(tmp_path, own)
    message = f"--recipe {reason}; tell it in one place"
    with pytest.raises(RecipeError, match=message):
        searched(space, told)
    name, _, value = told.partition("=")
    with pytest.raises(RecipeError, match=message):
        nas.search(space, recipe={name: value}, storage=f"sqlite:///{tmp_path}/nas.db")
    assert not (tmp_path / "nas.db").exists()
    with pytest.raises(RecipeError, match=message):
        audited(str(space), DataRef(), epochs=4, rungs="2,4", seed=0, recipe=[told], plugins=[])


def test_an_audit_trains_by_what_the_space_fixes(tmp_path: Path) -> None:
    space = spaced(tmp_path, "{lr: 0.5, batch: {choice: [8, 16]}}")
    told: dict[str, Any] = {"epochs": 4, "rungs": "2,4", "seed": 0, "plugins": []}
    _, job, _ = audited(str(space), DataRef(), recipe=["flip=yes"], **told)
    assert job.recipe == Recipe(lr=0.5, flip=True)


def test_a_name_is_what_a_space_begins_with_and_the_same_value_no_conflict(tmp_path: Path) -> None:
    found = searched(spaced(tmp_path, "{batch: 16}"), "small", "batch=16")
    assert found.space.suggest_recipe(Draw(random.Random(0)), found.job.recipe) == Recipe(
        batch=16, flip=True
    )
    searched(spaced(tmp_path, "{batch: 16}"), "small")


@pytest.mark.parametrize("own", ["{optimizer: adamw}", "{optimizer: {choice: [sgd, adamw]}}"])
def test_a_learning_rate_that_is_told_holds_under_the_optimizer_of_the_space(
    tmp_path: Path, own: str
) -> None:
    space = spaced(tmp_path, own)
    for told in ("lr=0.1", "lr=0.2"):
        found = searched(space, told)
        draws = [Draw(random.Random(seed)) for seed in range(9)]
        recipes = {found.space.suggest_recipe(draw, found.job.recipe) for draw in draws}
        assert {recipe.lr for recipe in recipes} == {float(told[3:])}
        assert "adamw" in {recipe.optimizer for recipe in recipes}
    unsaid = searched(space)
    draw = Draw(random.Random(0), {"recipe.optimizer": "adamw"})
    assert unsaid.space.suggest_recipe(draw, unsaid.job.recipe).lr == 0.001
    # It is in the record: the one study does not go on as the other.
    difference = first_difference(searched(space, "lr=0.1").row(), unsaid.row())
    assert difference == "space.recipe.lr is 0.1 in the study and absent now"


def test_a_learning_rate_that_is_told_holds_over_another_base_too(tmp_path: Path) -> None:
    space = load_space(str(spaced(tmp_path, "{optimizer: sgd}")), (1, 8, 8), 10)
    adamw = Recipe(optimizer="adamw")
    assert recipe_in(space, ["lr=0.001"], adamw) == Recipe(lr=0.001)
    assert recipe_in(space, [], adamw) == Recipe()


def test_the_command_of_a_report_tells_nothing_that_the_space_has(tmp_path: Path) -> None:
    study = searched(spaced(tmp_path, "{batch: 32}"), "finetune", "crop=2").row()
    row = StudyRow(**dataclasses.asdict(study), id=1, created=0.0)
    told = search_command(row, [])
    assert "--recipe crop=2" in told
    assert "--recipe optimizer=adamw" in told
    assert "batch" not in told


# --- a closed space's file -----------------------------------------------------------------------

CLOSED = "name: s\npattern: INPUT -> CONV(width=4) -> RELU -> GAP -> FC\n"


def test_a_training_of_a_file_is_by_its_recipe(tmp_path: Path) -> None:
    file = str(spaced(tmp_path, "{optimizer: adamw, batch: 16}", CLOSED))
    assert single_job(file, DataRef(), epochs=1).recipe == Recipe(optimizer="adamw", batch=16)
    found = single_job(file, DataRef(), epochs=1, recipe=["lr=0.1", "batch=16", "flip=yes"])
    assert found.recipe == Recipe(optimizer="adamw", batch=16, lr=0.1, flip=True)
    with pytest.raises(RecipeError, match="--recipe batch=8: the space s fixes it at 16"):
        single_job(file, DataRef(), epochs=1, recipe=["batch=8"])
    with pytest.raises(RecipeError, match="--recipe batch=8: the space s fixes it at 16"):
        nas.train(file, epochs=1, recipe={"batch": 8}, progress=False)


def test_a_training_of_a_file_that_searches_a_recipe_is_refused(tmp_path: Path) -> None:
    file = str(spaced(tmp_path, "{lr: {float: [0.1, 1.0]}}", CLOSED))
    with pytest.raises(NasError, match=r"s searches recipe\.lr: use `nas search`"):
        single_job(file, DataRef(), epochs=1)


def test_a_training_of_a_file_keeps_its_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounded = f"{CLOSED}constraints: {{params: '<= 50'}}\n"
    with pytest.raises(NothingFound, match=r"of s meets .*\(params <= 50\): .* has params 90"):
        single_job(str(spaced(tmp_path, "{}", bounded)), DataRef(), epochs=1)
    measured = f"{CLOSED}constraints: {{params: '<= 90', accuracy: '>= 0.9'}}\n"
    single_job(str(spaced(tmp_path, "{}", measured)), DataRef(), epochs=1)
    assert "s: the bounds on accuracy are a search's" in capsys.readouterr().err
