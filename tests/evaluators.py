"""Evaluators as users write them, good and bad; the jobs of the tests name them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nas.job import Epoch


def ok(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    for epoch in range(1, fidelity + 1):
        report(Epoch(epoch=epoch, train_loss=1 / epoch, accuracy=epoch / 10, seconds=0.01 * epoch))
    return {"accuracy": fidelity / 10, "params": architecture.params, "seed": seed}


def logs(architecture: Any, **_: Any) -> dict[str, float]:
    """Adds a line to the file of the tests, in a twentieth of a second."""
    time.sleep(0.05)
    with Path(os.environ["NAS_TEST_EVALUATED"]).open("a") as file:
        print(architecture.fingerprint, file=file)
    return {"accuracy": int(architecture.fingerprint[:6], 16) / 16**6}


def logs_four(architecture: Any, **_: Any) -> dict[str, float]:
    """As ``logs``, but the fourth and later ones wait until a file beside it says ``go``."""
    answer, log = logs(architecture), Path(os.environ["NAS_TEST_EVALUATED"])
    while len(log.read_text().splitlines()) > 3 and not log.with_name("go").exists():
        time.sleep(0.05)
    return answer


def raises(architecture: Any, *, fidelity: int, seed: int, report: Any) -> dict[str, float]:
    report(Epoch(epoch=1, train_loss=1.0, accuracy=0.1, seconds=0.0))
    raise ValueError("no\nluck")


def exits(architecture: Any, **_: Any) -> dict[str, float]:
    sys.exit("enough")


def answers(value: Any) -> Any:
    return lambda architecture, **_: value


not_finite = answers({"accuracy": float("nan")})
not_a_number = answers({"accuracy": "high"})
not_a_dict = answers(0.9)


def out_of_memory(architecture: Any, **_: Any) -> dict[str, float]:
    raise MemoryError


def reports_two_things(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    report(1, 0.5)
    return {"accuracy": 0.5}


def reports_names(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    report(epoch=1, accuracy=0.5)
    return {"accuracy": 0.5}


def reports_nothing(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    report()
    return {"accuracy": 0.5}


def reports_a_number(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    report(0.5)
    return {"accuracy": 0.5}


def prints(architecture: Any, **_: Any) -> dict[str, float]:
    print("a candidate's chatter")
    return {"accuracy": 0.5}


def whoami(architecture: Any, **_: Any) -> dict[str, float]:
    return {"pid": os.getpid(), "threads": int(os.environ.get("OMP_NUM_THREADS", 0))}


def dies(architecture: Any, **_: Any) -> dict[str, float]:
    os._exit(7)


def segfaults(architecture: Any, **_: Any) -> dict[str, float]:
    ctypes.string_at(0)
    return {}


def is_killed(architecture: Any, **_: Any) -> dict[str, float]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def forks_and_hangs(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    """A grandchild in the group, and one that has left it; then C code that never returns."""
    pids = [
        subprocess.Popen(["sleep", "1000"]).pid,
        subprocess.Popen(["sleep", "1000"], start_new_session=True).pid,
    ]
    for pid in [os.getpid(), *pids]:
        report(Epoch(epoch=pid, train_loss=0.0, accuracy=0.0, seconds=0.0))
    sum(range(10**15))  # holds the interpreter's lock and looks at no signal
    return {}


def forks_and_waits(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    subprocess.Popen(["sleep", "1000"])
    report(Epoch(epoch=1, train_loss=0.0, accuracy=0.0, seconds=0.0))
    time.sleep(1000)
    return {}


def forks_and_dies(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    """A grandchild in the group, one that has left it, and a daemon: nobody's child."""
    pids = [
        subprocess.Popen(["sleep", "1000"]).pid,
        subprocess.Popen(["sleep", "1000"], start_new_session=True).pid,
        daemon(),
    ]
    for pid in pids:
        report(Epoch(epoch=pid, train_loss=0.0, accuracy=0.0, seconds=0.0))
    os._exit(1)


def daemon() -> int:
    code = "setsid sh -c 'echo $$; exec sleep 1000 >/dev/null' &"
    told = subprocess.run(["sh", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return int(told.stdout)


def leaves_a_daemon(architecture: Any, **_: Any) -> dict[str, float]:
    return {"left": daemon()}


def forks_and_returns(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    """What a candidate's fork returns is not the candidate's answer."""
    if not os.fork():
        return {"accuracy": 0.9}
    os.wait()
    return {"accuracy": 0.5}


def reports_too_late(architecture: Any, *, seed: int, report: Any, **_: Any) -> dict[str, float]:
    def late() -> None:
        time.sleep(0.2)
        report(Epoch(epoch=99, train_loss=0.0, accuracy=0.0, seconds=0.0))

    threading.Thread(target=late).start()
    return {"accuracy": 0.5}


def prints_without_end(architecture: Any, **_: Any) -> dict[str, float]:
    line = "x" * 1023
    for _number in range(10_000):
        print(line)
    return {"accuracy": 0.5}


def writes_into_the_pipe(architecture: Any, **_: Any) -> dict[str, float]:
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2:
            with contextlib.suppress(OSError):
                os.write(int(entry), b"\0\0\0\3abc")
    time.sleep(1000)
    return {}


def closes_everything(architecture: Any, **_: Any) -> dict[str, float]:
    os.closerange(0, 1000)
    time.sleep(1000)
    return {}


def where(architecture: Any, **_: Any) -> dict[str, float]:
    return {"slashes": os.getcwd().count("/") + len(os.getcwd().strip("/"))}


def closes_its_pipe(architecture: Any, **_: Any) -> dict[str, float]:
    os.closerange(3, 1000)
    return {"accuracy": 0.5}


def empties_the_modules(architecture: Any, **_: Any) -> dict[str, float]:
    sys.modules.clear()
    return {"accuracy": 0.5}


class Quit(BaseException):
    def __str__(self) -> str:
        raise ValueError("no text either")


def quits(architecture: Any, **_: Any) -> dict[str, float]:
    raise Quit


def interrupts(architecture: Any, **_: Any) -> dict[str, float]:
    raise KeyboardInterrupt


def leaves_a_process(architecture: Any, **_: Any) -> dict[str, float]:
    left = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!"], stdout=subprocess.PIPE, text=True)
    assert left.stdout
    return {"pid": os.getpid(), "left": int(left.stdout.readline())}


def allocates_without_end(architecture: Any, **_: Any) -> dict[str, float]:
    held = []
    while True:
        held.append(bytearray(os.urandom(1) * 2**24))
        time.sleep(0.01)


def allocates_if_wide(architecture: Any, **_: Any) -> dict[str, float]:
    return allocates_without_end(architecture) if architecture.params > 1000 else {"accuracy": 0.5}


def waits(architecture: Any, *, report: Any, **_: Any) -> dict[str, float]:
    report(Epoch(epoch=os.getpid(), train_loss=0.0, accuracy=0.0, seconds=0.0))
    time.sleep(1000)
    return {}


def slow_reports(architecture: Any, *, fidelity: int, report: Any, **_: Any) -> dict[str, float]:
    for epoch in range(fidelity):
        time.sleep(0.05)
        report(Epoch(epoch=epoch, train_loss=0.0, accuracy=0.0, seconds=0.0))
    return {"accuracy": 0.5}


def sees_a_card(architecture: Any, **_: Any) -> dict[str, float]:
    return {"accuracy": 0.5, "card": float(os.environ["CUDA_VISIBLE_DEVICES"])}
