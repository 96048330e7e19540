"""File locks that let trainings pause while a latency is measured on their device.

A measurement holds ``latency-DEVICE`` exclusively. Trainings share ``training-DEVICE``, and between
two steps check for a waiting measurement: then they release the lock, and afterwards train for at
least as long as they were paused, so that repeated measurements take at most half of the device.
File locks work between all processes of a user on a machine, and end with their process. A check
takes 2 us.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nas import processes

STEP = 5.0  # seconds that a measurement waits for the steps under way; then it is beside them
MOST = 60.0  # seconds that a training is held back at most, should a measurement hang
OWN = 1.0  # seconds that it goes on at most thereafter, before the next measurement
TICK = 0.005


@contextmanager
def measurement(device: torch.device) -> Iterator[int]:
    """Waits for this user's other measurements on the device, and holds its trainings back; gives
    the lock's file descriptor, whose file is the reference's memory."""
    with _opened("latency", device) as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with _opened("training", device) as training:
            _within(STEP, training, fcntl.LOCK_EX)
            yield turn


@contextmanager
def training(device: torch.device) -> Iterator[Callable[[], None]]:
    """Holds the device together with other trainings; gives what a training calls between its
    steps, which waits while something is measured."""
    with _opened("latency", device) as turn, _opened("training", device) as mine:
        until = 0.0

        def begin() -> None:
            nonlocal until
            began = time.monotonic()
            _within(MOST, turn, fcntl.LOCK_SH)
            _within(MOST, mine, fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)
            now = time.monotonic()
            until = now + min(OWN, now - began)

        def between() -> None:
            if time.monotonic() < until:
                return
            if _taken(turn, fcntl.LOCK_SH):
                fcntl.flock(turn, fcntl.LOCK_UN)
                return
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            fcntl.flock(mine, fcntl.LOCK_UN)
            begin()

        begin()
        yield between


def _within(seconds: float, lock: int, kind: int) -> bool:
    until = time.monotonic() + seconds
    while not (taken := _taken(lock, kind)) and time.monotonic() < until:
        time.sleep(TICK)
    return taken


def _taken(lock: int, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _opened(what: str, device: torch.device) -> Iterator[int]:
    name = str(device)
    if device.type == "cuda":
        name = str(torch.cuda.get_device_properties(device).uuid)
    path = processes.own_folder() / f"{what}-{name}"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)
