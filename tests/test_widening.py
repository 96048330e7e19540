"""A study whose space is widened continues with its trials; other changes are refused."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_search import plan, rows, run, space_of

from nas.cli.dry_run import rehearse
from nas.driver.tally import Status
from nas.driver.widening import open_study
from nas.errors import StudyError
from nas.job import Failure, Recipe
from nas.spaces.space import Space
from nas.store import Ask, Store, open_store
from nas.store.mirror import Mirror

pytestmark = pytest.mark.usefixtures("evaluated")
WHERE: dict[str, Any] = {"w": {"choice": [4, 8], "per": "N"}, "N": {"int": [1, 2]}, "k": 3}
WIDER: dict[str, Any] = {
    "w": {"choice": [4, 6, 8, 16], "per": "N"},
    "N": {"int": [1, 4]},
    "k": {"choice": [3, 5]},
}
PATTERN = "INPUT -> [CONV(width=w, kernel=k) -> BN -> RELU]*N -> GAP -> FC"


def space(where: dict[str, Any] | None = None, **sections: Any) -> Space:
    return space_of({**WHERE, **(where or {})}, pattern=PATTERN, **sections)


@pytest.mark.parametrize("sampler", ["default", "tpe"])
def test_a_wider_space_keeps_the_trials(store: Store, sampler: str) -> None:
    run(store, plan(space=space(), trials=5, sampler=sampler))
    before = rows(store)
    Mirror(store, store.find_study("s")).catch_up()
    status = run(store, plan(space=space(WIDER), trials=12, sampler=sampler))
    found = rows(store)
    assert status.finished == 12
    assert [(r.number, r.fingerprint, r.accuracy, r.id) for r in found[:5]] == [
        (r.number, r.fingerprint, r.accuracy, r.id) for r in before
    ]
    for old, new in zip(before, found, strict=False):
        # What had one value and was not asked for is a parameter like any other now.
        assert new.sampled == {**old.sampled, "k": 3}
    assert any({r.sampled["N"], r.sampled["k"], r.sampled["w[1]"]} & {3, 4, 5, 6, 16}
               for r in found[5:])  # fmt: skip
    # One domain a parameter: Optuna refuses a study with two.
    texts = {(name, text) for row in found for name, text in row.distributions.items()}
    assert len(texts) == len({name for name, _ in texts})
    choices = dict(texts)["w[1]"]
    assert json.loads(choices)["attributes"]["choices"] == [4, 6, 8, 16]
    copy = optuna.load_study(study_name="s", storage=store.engine.url.render_as_string())
    assert {str(t.distributions["w[1]"]) for t in copy.trials} == {
        str(optuna.distributions.json_to_distribution(choices))
    }
    assert [t.params for t in copy.trials] == [dict(row.sampled) for row in found]
    # It is told once; from then on it is a study as any other.
    assert open_study(plan(space=space(WIDER), sampler=sampler), store)[1] == ""


def test_resuming_with_a_wider_space_says_so(store: Store) -> None:
    run(store, plan(space=space(), trials=3))
    _, told = open_study(plan(space=space(WIDER)), store)
    assert told == "study s resumes with its 3 trials in the changed space"


@pytest.mark.parametrize(
    ("where", "changed", "reason"),
    [
        (
            {"w": {"choice": [4], "per": "N"}},
            "w.choice is [4, 8] in the study and [4] now",
            "w allows less than it did",
        ),
        (
            {"N": {"int": [2, 3]}},
            "N.int is [1, 2] in the study and [2, 3] now",
            "N allows less than it did",
        ),
        (
            {"w": {"choice": [4, 8, 16]}},
            "w.choice is [4, 8] in the study and [4, 8, 16] now; "
            "space.where.w.per is 'N' in the study and absent now",
            "w allows less than it did",
        ),  # one for all stages
        ({"k": 5}, "k is 3 in the study and 5 now", "k allows less than it did"),
        (
            {"N": {"int": [1, 5], "step": 2}},
            "N.int is [1, 2] in the study and [1, 5] now; "
            "space.where.N.step is absent in the study and 2 now",
            "N allows less than it did",
        ),
    ],
)
def test_a_narrower_space_is_refused(
    store: Store, where: dict[str, Any], changed: str, reason: str
) -> None:
    run(store, plan(space=space(), trials=3))
    before = rows(store)
    told = (
        f"other settings: space.where.{changed}; repeat the settings of the study, or give another "
    )
    with pytest.raises(StudyError, match=re.escape(f"{told}--study name ({reason})")):
        run(store, plan(space=space(where), trials=9))
    assert rows(store) == before
    assert store.find_study("s").space_text == space().text


def test_another_pattern_is_refused(store: Store) -> None:
    run(store, plan(space=space(), trials=3))
    other = space_of(WHERE, pattern=PATTERN.replace("BN -> ", ""))
    with pytest.raises(StudyError, match=r"\(trial 0 would be another network\)"):
        run(store, plan(space=other, trials=9))


def test_a_choice_where_the_pattern_had_none_has_no_value(store: Store) -> None:
    fixed = space_of({k: WHERE[k] for k in "wN"}, pattern=PATTERN.replace("=k", "=3"))
    run(store, plan(space=fixed, trials=3))
    with pytest.raises(StudyError, match=r"trial 0 .*it has no value for k\)"):
        run(store, plan(space=space({"k": {"choice": [3, 5]}}), trials=9))


def test_a_constraint_may_move_as_long_as_what_met_it_does(store: Store) -> None:
    run(store, plan(space=space(constraints={"params": "<= 900"}), trials=4))
    most = max(row.params for row in rows(store))
    wide = space(WIDER, constraints={"params": "<= 5000"})
    assert run(store, plan(space=wide, trials=14)).finished == 14
    assert most <= 900 < max(row.params for row in rows(store)) <= 5000
    with pytest.raises(StudyError, match=r"constraints.* \(trial \d+ no longer meets the const"):
        run(store, plan(space=space(WIDER, constraints={"params": "<= 100"}), trials=20))


def test_a_searched_recipe_may_be_wider(store: Store) -> None:
    narrow = space(recipe={"lr": {"choice": [0.1, 0.2]}})
    run(store, plan(space=narrow, trials=4))
    wide = space(WIDER, recipe={"lr": {"choice": [0.05, 0.1, 0.2]}})
    assert run(store, plan(space=wide, trials=12)).finished == 12
    assert all(row.recipe["lr"] == row.sampled["recipe.lr"] for row in rows(store))
    with pytest.raises(StudyError, match=r"recipe.lr allows less than it did"):
        run(store, plan(space=space(WIDER, recipe={"lr": {"choice": [0.05, 0.2]}}), trials=20))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"lr": 0.5, "batch": 16}, {}, "recipe.lr 0.5, and would have 0.1 now"),
        ({"lr": 0.5, "batch": 16}, {"lr": 0.5}, "recipe.batch 16, and would have 64 now"),
        ({"optimizer": "adamw"}, {}, "recipe.optimizer 'adamw', and would have 'sgd' now"),
        ({}, {"batch": 16}, "recipe.batch 64, and would have 16 now"),
    ],
)
def test_another_fixed_recipe_is_refused(
    store: Store, before: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    run(store, plan(space=space(recipe=before), trials=3))
    with pytest.raises(StudyError, match=re.escape(f"(trial 0 has {told})")):
        run(store, plan(space=space(recipe=now), trials=9))
    assert len(rows(store)) == 3


def test_a_fixed_setting_may_go_where_the_search_has_it_anyway(store: Store) -> None:
    run(store, plan(space=space(recipe={"lr": 0.1, "batch": 16}), trials=3))
    run(store, plan(space=space(WIDER, recipe={"batch": 16}), trials=5))
    assert {row.recipe["batch"] for row in rows(store)} == {16}


def test_a_progression_and_an_optional_element_may_not_hold_less(store: Store) -> None:
    pattern = "INPUT -> [CONV(width=w) -> RELU -> POOL?]*N -> GAP -> FC"

    def grown(most: int, **where: Any) -> Space:
        widths = {"start": [8], "times": [1.0, 2.0], "per": "N", "most": most}
        return space_of({"w": widths, "N": {"int": [1, 3]}, **where}, pattern=pattern)

    run(store, plan(space=grown(32), trials=3))
    with pytest.raises(StudyError, match=r"\(w allows less than it did\)"):
        run(store, plan(space=grown(16), trials=9))
    with pytest.raises(StudyError, match=r"\(POOL\? allows less than it did\)"):
        run(store, plan(space=grown(32, **{"POOL?": {"choice": ["present"]}}), trials=9))
    assert run(store, plan(space=grown(64), trials=9)).finished == 9


def test_other_settings_are_refused_with_a_wider_space_too(store: Store) -> None:
    run(store, plan(space=space(), trials=3))
    with pytest.raises(StudyError, match=r"recipe\.lr is"):
        run(store, plan(space=space(WIDER), trials=9, recipe=Recipe(lr=0.7)))


def test_a_study_without_trials_says_that_it_takes_new_settings(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/record.db")
    first, again = plan(space=space(), trials=3), plan(space=space(), trials=3, recipe=Recipe(lr=1))
    assert open_study(first, store)[1] == ""
    assert open_study(first, store)[1] == ""
    _, sentence = open_study(again, store)
    assert sentence.startswith("study s had no results, and takes the new settings: recipe.lr is ")
    assert open_study(again, store)[1] == ""


def test_a_search_of_the_old_space_ends_where_it_was_widened(store: Store, tmp_path: Path) -> None:
    """Between two trials nothing runs, and the space is widened: no trial of the old one comes
    after."""
    other = open_store(f"sqlite:///{tmp_path}/record.db")
    wide = plan(space=space(WIDER), trials=12)
    told: list[str] = []

    def watch(status: Status) -> None:
        if status.finished >= 3 and not told:
            with contextlib.suppress(StudyError):  # one is running
                told.append(open_study(wide, other)[1])

    with pytest.raises(StudyError, match=r"study 's' were changed meanwhile: space\."):
        run(store, plan(space=space(), trials=9), watch)
    assert told[0].startswith("study s resumes with its")
    before = rows(store)
    assert {row.state for row in before} == {"finished"}
    assert all(row.sampled["k"] == 3 for row in before)
    assert run(store, wide).finished == 12
    other.close()


def test_a_study_that_is_searched_keeps_its_space(store: Store, tmp_path: Path) -> None:
    run(store, plan(space=space(), trials=3))
    other = open_store(f"sqlite:///{tmp_path}/record.db")
    study = other.find_study("s")
    was = other.trial(study.id, 0)
    fields = ("sampled", "distributions", "pattern", "fingerprint", "params", "macs")
    ask = Ask(**{name: getattr(was, name) for name in fields}, job_key="once more")
    [claim] = other.begin(study, [ask])
    with pytest.raises(StudyError, match="is being searched"):
        run(store, plan(space=space(WIDER), trials=9))
    assert store.find_study("s").space_text == space().text
    other.release(claim.token, Failure(kind="worker_died", reason="stopped"))
    other.close()


def test_a_rehearsal_changes_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(store, plan(space=space(), trials=3))
    before = store.find_study("s"), rows(store)
    rehearse(plan(space=space(WIDER)), f"sqlite:///{tmp_path}/record.db", 0, 0.0)
    assert (store.find_study("s"), rows(store)) == before
    with pytest.raises(StudyError, match="allows less"):
        rehearse(plan(space=space({"N": 1})), f"sqlite:///{tmp_path}/record.db", 0, 0.0)
    capsys.readouterr()
