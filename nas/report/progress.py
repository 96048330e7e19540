"""The progress of a search, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.metrics import percent, shown
from nas.report.screens import Plain, body_of, console, span, table

if TYPE_CHECKING:
    from nas.driver.tally import Status
    from nas.job import Epoch
    from nas.store import TrialRow

EVERY = 2.0  # seconds between two plain progress lines, at most


class Progress:
    """The progress of a search on stderr: live on a terminal, plain lines elsewhere."""

    def __init__(self, study: str, objectives: Sequence[str]) -> None:
        self.study = study
        self.objectives = objectives
        self.console = console(sys.stderr)
        self.live: Live | None = None
        self.told = 0.0
        self.done = -1

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()

    def update(self, status: Status) -> None:
        if self.live:
            self.live.update(Plain(self.page(status)))
        elif status.done != self.done:
            last = status.done >= status.budget
            if last or self.done < 0 or time.monotonic() - self.told >= EVERY:
                self.told, self.done = time.monotonic(), status.done
                print(f"nas: {self.line(status)}", file=sys.stderr, flush=True)

    def line(self, status: Status) -> str:
        best = status.front[0] if status.front else None
        name = self.objectives[0]
        told = f", best {name} {shown(name, best.value(name))}" if best else ""
        return (
            f"{status.done} of {status.budget} trials, {status.running} running, "
            f"{status.stopped} stopped, {status.failed} failed, {status.refused} refused, "
            f"front of {len(status.front)}"
            f"{told}, {span(status.seconds_left)} left"
        )

    def page(self, status: Status) -> RenderableType:
        bar = ProgressBar(total=status.budget, completed=status.done, width=40)
        numbers = Text.assemble(
            (f" {status.done}/{status.budget}", "bold"),
            f"  {status.running} running  {status.stopped} stopped  {status.failed} failed  "
            f"{status.refused} refused  "
            f"{status.reused} reused   {span(status.seconds)} so far, "
            f"{span(status.seconds_left)} left",
        )
        head = Table.grid()
        head.add_row(Text(f"{self.study}  ", style="bold cyan"), bar, numbers)
        front = table("trial", *self.objectives, "pattern", numbers=("trial", *self.objectives))
        room = max(3, self.console.height - 5)
        for row in status.front[:room]:
            values = (shown(name, row.value(name)) for name in self.objectives)
            pattern = Text(row.baseline or body_of(row.pattern), no_wrap=True, overflow="ellipsis")
            front.add_row(str(row.number), *values, pattern)
        return Group(head, Text(f"front ({len(status.front)})", style="dim"), front)


class Trainings:
    """The trainings of a report on stderr, an epoch at a time: a line that changes on a terminal,
    elsewhere a line for what each training came to, and at most one every other second."""

    def __init__(self, seeds: int, epochs: int) -> None:
        self.seeds, self.epochs = seeds, epochs
        self.console = Console(stderr=True)
        self.status = self.console.status("") if self.console.is_terminal else None
        self.told = 0.0

    def __enter__(self) -> Trainings:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *ended: object) -> None:
        if self.status:
            self.status.stop()

    def tell(self, row: TrialRow, number: int, epoch: Epoch) -> None:
        told = (
            f"{row.baseline or f'trial {row.number}'}, training {number + 1} of {self.seeds}, "
            f"epoch {epoch.epoch} of {self.epochs}: {percent(epoch.accuracy)}"
        )
        last = epoch.epoch >= self.epochs
        if self.status and not last:
            self.status.update(Text(told))
        elif last or time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            print(f"nas: {told}", file=sys.stderr, flush=True)
