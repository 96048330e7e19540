"""The progress of a search, on stderr."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas import durations
from nas.errors import brief
from nas.metrics import percent, shown
from nas.report.screens import Plain, console, span, table
from nas.report.trials import body_of
from nas.text import counted

if TYPE_CHECKING:
    from nas.driver.tally import Status, UnderWay
    from nas.job import Epoch, Report
    from nas.store import TrialRow

FEW = 8  # trials below which a forecast names its basis
EVERY = 2.0  # least seconds between two plain progress lines


class Progress:
    """The progress of a search on stderr: live on a terminal, plain lines elsewhere."""

    def __init__(self, study: str, objectives: Sequence[str]) -> None:
        self.study = study
        self.objectives = objectives
        self.console = console(sys.stderr)
        self.live: Live | None = None
        self.status: Status | None = None
        self.updated = 0.0  # time of the status, or of the last plain line
        self.done = -1
        self.forecasted = False

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(
                get_renderable=self.now, console=self.console, refresh_per_second=2, transient=True
            )
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self, status: Status) -> None:
        if self.live:
            self.status, self.updated = status, time.monotonic()
            return
        first = self.done < 0 or (status.forecast is not None and not self.forecasted)
        last = full(status) or (status.out_of_time and not status.under_way)
        done = status.done + status.baselines_ended + status.retried + status.refused
        if first or (done != self.done and (last or time.monotonic() - self.updated >= EVERY)):
            self.updated, self.done = time.monotonic(), done
            self.forecasted = status.forecast is not None
            print(f"nas: {self.line(status)}", file=sys.stderr, flush=True)

    def now(self) -> RenderableType:
        """The current page: its clock ticks between events."""
        if self.status is None:
            return Text("")
        since = time.monotonic() - self.updated
        return Plain(self.page(self.status, since))

    def line(self, status: Status) -> str:
        best = status.front[0] if status.front else None
        name = self.objectives[0]
        parts = [
            f"{of_budget(status)} trial{'s' * (status.budget is not None or status.done != 1)}",
            *counts(status),
            f"front of {len(status.front)}" if status.front else "",
            f"best {name} {shown(name, best.value(name))}" if best else "",
            left(status),
        ]
        return ", ".join(filter(None, parts))

    def page(self, status: Status, since: float = 0.0) -> RenderableType:
        """At most as high as the terminal: a third for the running trials, the rest for the front.
        The status is ``since`` seconds old."""
        width, height = self.console.size
        name = Text(f"{self.study}  ", style="bold cyan", no_wrap=True, overflow="ellipsis")
        budget = Text(f" {of_budget(status)}", style="bold")
        name.truncate(max(8, width - 30), overflow="ellipsis")
        room = width - name.cell_len - budget.cell_len - 2
        total, completed = share(status, since)
        bar = ProgressBar(total=total, completed=completed, width=max(5, min(40, room)))
        head = Table.grid()
        head.add_row(name, bar, budget)
        clock = [f"{span(status.seconds + since)} so far", left(status, since)]
        facts = ", ".join(filter(None, [*counts(status), *clock]))
        lines: list[RenderableType] = [head, _one_line(facts)]
        running = status.under_way[: max(1, height // 3 - 2)]
        lines += [_one_line(f"  {each}", "dim") for each in map(under_way, running)]
        if more := len(status.under_way) - len(running):
            lines.append(_one_line(f"  and {more} more", "dim"))
        if status.front:
            front = table("trial", *self.objectives, "pattern", numbers=("trial", *self.objectives))
            best = status.front[: max(1, height - len(lines) - 4)]
            for row in best:
                values = (shown(name, row.value(name)) for name in self.objectives)
                front.add_row(str(row.number), *values, _one_line(body_of(row)))
            some = f", the first {len(best)}" if len(best) < len(status.front) else ""
            lines += [_one_line(f"front ({len(status.front)}{some})", "dim"), front]
        # A terminal echoes ^C at the cursor: after a full line it would start another, which would
        # not be removed with the page.
        return Group(*lines, Text(""))


def share(status: Status, since: float = 0.0) -> tuple[float, float]:
    """The total and the completed amount: in trials, or without a limit of trials in seconds; the
    status is ``since`` seconds old."""
    if status.budget is None:
        time = status.time or 1.0
        return time, min(time, time - (status.time_left or 0.0) + since)
    done = status.done + status.baselines_ended
    return max(status.budget + status.baselines, done), done


def full(status: Status) -> bool:
    compared = status.baselines_ended >= status.baselines
    return status.budget is not None and status.done >= status.budget and compared


def of_budget(status: Status) -> str:
    if status.budget is None:
        return str(status.done)
    if status.done > status.budget:
        return f"{status.done} (of {status.budget} asked for)"
    return f"{status.done} of {status.budget}"


def counts(status: Status) -> list[str]:
    """The nonzero counts, in words."""
    names = ("running", "paused", "stopped", "failed", "reused", "refused", "rejected")
    named = [f"{number} {name}" for name in names if (number := getattr(status, name))]
    if status.retried:
        named.append(f"{status.retried} tried again ({brief(status.retried_for, 60)})")
    return [*named, *beside(status)]


def beside(status: Status) -> list[str]:
    """The counts besides trials, in words: baselines that ended and failed, networks that were
    distilled and pruned."""
    made = [f"{count} {how}" for how, count in status.made.items()]
    if not status.baselines:
        return made
    failed = f" ({status.baselines_failed} failed)" if status.baselines_failed else ""
    of = f"{status.baselines_ended} of " if status.baselines_ended < status.baselines else ""
    return [f"{of}{counted(status.baselines, 'baseline')}{failed}", *made]


def left(status: Status, since: float = 0.0) -> str:
    """The remaining time in words: the forecast, or the rest of the time budget where that is
    shorter. The status is ``since`` seconds old."""
    forecast = status.forecast
    if full(status):
        return ""
    if status.time is not None and status.time_left is not None:
        rest = max(0.0, status.time_left - since)
        if forecast is None or forecast.seconds - since > rest:
            allowed = durations.show(status.time)
            return f"{span(rest)} of {allowed} left" if rest else f"the {allowed} are over"
    if forecast is None or forecast.seconds <= since:
        return ""
    few = f"by the first {forecast.trials} trials" if forecast.trials > 1 else "by the first trial"
    by = few if forecast.trials else "by the first epochs"
    return (
        f"about {span(forecast.seconds - since)} left{f' ({by})' if forecast.trials < FEW else ''}"
    )


def under_way(run: UnderWay) -> str:
    name = run.baseline or f"trial {run.number}"
    if run.last is None:
        return f"{name}: begun"
    return f"{name}: epoch {run.last.epoch} of {run.epochs}, {percent(run.last.accuracy)}"


def _one_line(line: str, style: str = "") -> Text:
    return Text(line, style=style, no_wrap=True, overflow="ellipsis")


def epoch_printer(epochs: int) -> Report:
    """Returns a function that prints a line per epoch of a training of ``epochs``."""

    def report(point: Epoch) -> None:
        loss = f"epoch {point.epoch} of {epochs}, loss {point.train_loss:.4f}"
        scored = f"validation accuracy {percent(point.accuracy)}"
        print(f"nas: {loss}, {scored}, {span(point.seconds)}", file=sys.stderr, flush=True)

    return report


class Left:
    """Forecasts the remaining time of trainings, run one after another, from the epochs so far.
    ``works`` are their relative costs, in any unit."""

    def __init__(self, works: Sequence[float]) -> None:
        self.works = works
        self.took: dict[int, tuple[float, float]] = {}  # by index: seconds, and work done
        self.ended = math.inf  # when the last training ended; scoring after it takes time, too

    def after(self, place: int, share: float, seconds: float) -> float:
        """Seconds left, after the fraction ``share`` of training ``place`` took ``seconds``."""
        done = share * self.works[place]
        now = time.monotonic()
        # Longer than by the clock, if resumed.
        self.took[place] = max(seconds, now - self.ended), done
        if share >= 1:
            self.ended = now
        pace = sum(took for took, _ in self.took.values()) / sum(d for _, d in self.took.values())
        return pace * (sum(self.works[place:]) - done)

    def clause(self, place: int, share: float, seconds: float) -> str:
        """``after`` as the end of a sentence; empty for less than a second."""
        left = self.after(place, share, seconds)
        return f", about {span(left)} left" if left >= 1 else ""


class Trainings:
    """The progress of a report's trainings on stderr: a changing line on a terminal, elsewhere a
    line per training, and at most one every two seconds."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.left = Left([])
        self.count = 0
        self.console = console(sys.stderr)
        self.status = self.console.status("") if self.console.is_terminal else None
        self.updated = 0.0

    def __enter__(self) -> Trainings:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.status:
            self.status.stop()

    def begin(self, seconds: Sequence[float]) -> None:
        """Prints how many trainings there are at most, and how long they take, from the expected
        ``seconds`` of each (NaN: unknown)."""
        known = [each for each in seconds if each > 0]
        usual = statistics.median(known) if known else 1.0
        self.left = Left([each if each > 0 else usual for each in seconds])
        sentence = f"{counted(len(seconds), 'training')} at most"
        sentence += f", each of {counted(self.epochs, 'epoch')}"
        if known:
            sentence += f", about {span(sum(self.left.works))}, judging by the search"
        print(f"nas: {sentence}", file=sys.stderr, flush=True)

    def tell(self, row: TrialRow, number: int, epoch: Epoch | None) -> None:
        training = f"{row.baseline or f'trial {row.number}'}, training {number + 1}"
        last = epoch is None or epoch.epoch >= self.epochs
        sentence = f"{self.count + 1} of {len(self.left.works)}: {training}"
        if epoch is None:
            sentence += ": reused from an earlier training"
        else:
            sentence += f", epoch {epoch.epoch} of {self.epochs}: {percent(epoch.accuracy)}"
            sentence += self.left.clause(self.count, epoch.epoch / self.epochs, epoch.seconds)
        self.count += last
        if self.status and not last:
            self.status.update(Text(sentence))
        elif last or time.monotonic() - self.updated >= EVERY:
            self.updated = time.monotonic()
            print(f"nas: {sentence}", file=sys.stderr, flush=True)
