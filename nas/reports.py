"""``nas audit`` and ``nas report``: run, with progress on stderr, and show on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas import pages, screens
from nas.audit import Subject, audit
from nas.job import Job
from nas.space import Space


def audit_and_show(space: Space, job: Job, levels: Sequence[int], count: int) -> None:
    """Trains what the audit needs, a line each on stderr; at the end its page."""

    def tell(number: int, subject: Subject) -> None:
        scores = ", ".join(f"{screens.percent(a)} at {e}" for e, a in subject.scores.items())
        size = screens.count(subject.architecture.params)
        print(f"nas: {number + 1} of {count}, {size} params: {scores}", file=sys.stderr, flush=True)

    screens.out(pages.audit_page(audit(space, job, levels, count, tell)))
