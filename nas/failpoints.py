"""Points at which tests kill a search, to check that nothing is lost: ``NAS_FAILPOINT=told:3``
kills the process with SIGKILL on the third call of ``reach("told")``.

Without the variable a point costs one dictionary lookup.
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
    # nas.training.checkpoint: half a file is written, all of it, the previous version is set aside
    # and the new one not yet in place
    "checkpoint_half",
    "checkpoint_whole",
    "checkpoint_between",
    # workers, in the job's process and in its seat's
    "job_taken",
    "job_done",
    "seat_taken",
    "seat_done",
)


def reach(name: str) -> None:
    """Kills the process with SIGKILL if ``NAS_FAILPOINT`` names this point and this call."""
    wish = os.environ.get("NAS_FAILPOINT")
    if wish is None:
        return
    place, _, turn = wish.partition(":")
    if place != name:
        return
    left = int(turn or 1) - 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    os.environ["NAS_FAILPOINT"] = f"{name}:{left}"  # the countdown is kept in the environment
