"""Places where a test kills a search, to see that nothing is lost: ``NAS_FAILPOINT=told:3`` ends
the process the third time that it comes to ``reach("told")``, by SIGKILL.

Without the variable a place costs one look into a dictionary.
"""

from __future__ import annotations

import os
import signal

FAILPOINTS: tuple[str, ...] = (
    # nas.driver.loop, in the order of a trial's life
    "asked",
    "begun",
    "dispatched",
    "received",
    "recorded",
    "told",
    "reused",
    "failed",
    "requeued",
    "recovered",
    "claimed",
    # nas.store: around the end of any transaction that writes
    "writing",
    "written",
    # nas.store.mirror
    "copy_made",
    "copying",
    "copied",
    # nas.training.checkpoint: half of a file, a whole one, the one before set aside and the new
    # not yet in
    "checkpoint_half",
    "checkpoint_whole",
    "checkpoint_between",
    # workers, in the process of the job and in the one of its seat
    "job_taken",
    "job_done",
    "seat_taken",
    "seat_done",
)


def reach(name: str) -> None:
    """Ends the process with SIGKILL where ``NAS_FAILPOINT`` names this place and this time."""
    wish = os.environ.get("NAS_FAILPOINT")
    if wish is None:
        return
    place, _, turn = wish.partition(":")
    if place != name:
        return
    left = int(turn or 1) - 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    os.environ["NAS_FAILPOINT"] = f"{name}:{left}"  # the countdown needs no state of ours
