"""The output of ``nas distill``, ``nas prune`` and ``nas cascade``: a treatment compared with its
control, a cascade with the best single network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from nas.metrics import count, metric, percent, shown
from nas.report.evaluations import with_interval
from nas.report.screens import table
from nas.text import shown_file

if TYPE_CHECKING:
    from nas.store import TrialRow
    from nas.training.cascade_choice import Choice, CrossValidation
    from nas.training.evaluation import Comparison, Evaluation
    from nas.training.models import Model
    from nas.training.paired import Gain, Paired


def paired_page(names: Sequence[str], found: Paired, trial: bool = False) -> RenderableType:
    """Each seed's accuracies, the mean of each arm, and the gain with its interval. The model to
    use is of the arm that is better on validation, and there the best on validation; where the
    treatment's first becomes a ``trial``, that one, so that a record's number and its measurements
    are of the same model."""
    arms = (found.treatment, found.control)
    numbers = [f"{name}, {part}" for part in ("validation", "test") for name in names]
    listed = table("seed", *numbers, numbers=numbers)
    scores = [np.mean(arm.validation, 1) for arm in arms]
    scores += [np.mean(arm.test, 1) for arm in arms]
    for row, trained in enumerate(found.treatment.trained):
        listed.add_row(str(trained.model.card.seed), *(percent(float(s[row])) for s in scores))
    listed.add_row("mean", *(percent(float(s.mean())) for s in scores))
    arm, which = found.better, "best of the seeds on validation"
    name, best = names[arm is found.control], arm.best
    if trial and arm is found.treatment:
        best, which = arm.trained[0], "the first seed's, as in the study"
    made, file = best.architecture, shown_file(str(best.file))
    gains = {"validation": found.validation, "test": found.test}
    return Group(
        listed,
        Text(""),
        *(
            Text(f"gain on {part}: {gain_text(gain)}: {verdict(gain, names[1])}")
            for part, gain in gains.items()
        ),
        Text(f"model to use: {file}, {name}, {count(made.params)} params, {which}"),
    )


def gain_text(gain: Gain) -> str:
    """A gain in percentage points, with its interval."""
    points = f"{100 * gain.value:+.2f} points"
    if math.isnan(gain.low):
        return f"{points}, without an interval, as one seed gives none"
    return f"{points} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"


def entered(control: str, study: str, row: TrialRow, place: str, found: Paired) -> str:
    """What was added to a study: the treatment's training with the first seed, even where the
    ``control``, called as in ``paired_page``, is better. ``place`` describes its place on the
    front."""
    added = f"added to study {study} as trial {row.number}, {place}"
    first = "the training with the first seed, as a trial is one training"
    number = f"--trial {row.number}"
    if found.better is found.control:
        return (
            f"{added}. It is no gain: {number} is {shown_file(row.model or '')}, {first}; "
            f"{control} it is better on validation, and that one, the model above, is no trial"
        )
    sentence = f"{added}: {number} is the model above, {first}"
    if found.test.sure and found.test.value > 0:
        return sentence
    return f"{sentence}; on test {verdict(found.test, control)}"


def verdict(gain: Gain, control: str) -> str:
    """What a gain amounts to: significant, undecided, or none, whether or not the ``control`` is
    better significantly."""
    within = "the interval includes 0" if gain.low <= 0 <= gain.high else ""
    if gain.value < 0:
        better = f"no gain: {control} it is better by {-100 * gain.value:.2f} points"
        return f"{better}, though {within}" if within else better
    if gain.sure:
        return "a significant gain"
    ahead = f"undecided, {100 * gain.value:+.2f} points"
    return f"{ahead}, as {within}" if within else ahead


# --- cascades ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascaded:
    """A chosen cascade and its test results, beside the best single network."""

    names: Sequence[str]
    cost: str
    choice: Choice
    single: Choice | None
    validated: CrossValidation | None
    single_validated: CrossValidation | None
    test: Evaluation
    shares: Sequence[float]
    costs: Sequence[float]
    ms: float
    single_test: Evaluation | None
    single_ms: float | None

    @property
    def test_cost(self) -> float:
        return self.choice.mean_cost(self.costs, self.shares)

    @property
    def slower_than(self) -> str:
        """The single network, where it alone took no longer than the cascade; otherwise empty."""
        if self.single is None or self.single_ms is None or self.ms < self.single_ms:
            return ""
        return self.names[self.single.members[0]]


def candidates_table(
    names: Sequence[str],
    models: Sequence[Model],
    scores: Sequence[float],
    costs: Sequence[Mapping[str, float]],
    cost: str,
) -> RenderableType:
    """The candidates for a cascade's members, the cheapest first."""
    titles = [metric(name).title for name in costs[0]]
    listed = table("network", "validation", *titles, numbers=("validation", *titles))
    for i in sorted(range(len(names)), key=lambda i: costs[i][cost]):
        values = [shown(name, value) for name, value in costs[i].items()]
        listed.add_row(Text(names[i]), percent(scores[i]), *values)
    return listed


def cost_sentence(cascaded: Cascaded, single: Choice, single_ms: float) -> str:
    """A cascade's cost beside the single network's. The measured time comes first where it tells
    against the cascade: a sum of its members' latencies lacks what happens between them."""
    part, of = 100 * cascaded.test_cost / single.cost, metric(cascaded.cost).title
    times = cascaded.ms / single_ms
    if name := cascaded.slower_than:
        return (
            f"the cascade is slower here than {name} alone, {cascaded.ms:.3f} ms an image to "
            f"{single_ms:.3f}, though its members take {part:.0f} % of that network's {of}"
        )
    return (
        f"the cascade costs {part:.0f} % of the {of} of the single network, {times:.2g} times its "
        "time in all"
    )


IN_ALL = (
    "ms in all: from an image's pixels to its class, one at a time; a latency is of a network "
    "alone. Costs are of the test images"
)


def cascade_page(cascaded: Cascaded, comparison: Comparison | None) -> RenderableType:
    """The members with their thresholds, and the test results of the cascade and the best single
    network."""
    choice, title = cascaded.choice, metric(cascaded.cost).title
    members = table("member", "answers from", "of validation", "of test",
                    numbers=("answers from", "of validation", "of test"))  # fmt: skip
    least = [*(f"{100 * t:.2f} %" for t in choice.thresholds), "all the rest"]
    for i, at, share, tested in zip(
        choice.members, least, choice.shares, cascaded.shares, strict=True
    ):
        members.add_row(Text(cascaded.names[i]), at, percent(share), percent(tested))
    scores = table("", "validation", "test", f"{title} an image", "ms in all",
                   numbers=("validation", "test", f"{title} an image", "ms in all"))  # fmt: skip
    scores.add_row(
        "cascade", percent(choice.accuracy), with_interval(cascaded.test),
        shown(cascaded.cost, cascaded.test_cost), f"{cascaded.ms:.3f}",
    )  # fmt: skip
    lines: list[RenderableType] = [Text(""), members, Text(""), scores, Text("")]
    if cascaded.single and cascaded.single_test and cascaded.single_ms is not None:
        scores.add_row(
            Text(cascaded.names[cascaded.single.members[0]]), percent(cascaded.single.accuracy),
            with_interval(cascaded.single_test), shown(cascaded.cost, cascaded.single.cost),
            f"{cascaded.single_ms:.3f}",
        )  # fmt: skip
        lines.append(Text(cost_sentence(cascaded, cascaded.single, cascaded.single_ms)))
    lines.append(Text(IN_ALL))
    if cascaded.validated:
        chosen, held = percent(cascaded.validated.chosen), percent(cascaded.validated.held_out)
        sentence = f"cross-validated: {chosen} on the four folds that chose it, {held} on the fifth"
        if alone := cascaded.single_validated:
            chosen, held = percent(alone.chosen), percent(alone.held_out)
            sentence += f"; the best single network {chosen} and {held}"
        lines.append(Text(sentence))
    if comparison:
        sure = "they differ" if comparison.p < 0.05 else "no significant difference"
        lines.append(
            Text(
                f"test images right with the cascade alone {comparison.only_first}, with the "
                f"single network alone {comparison.only_second}: p = {comparison.p:.3g}, {sure}"
            )
        )
    return Group(*lines)
