"""When each process of a search comes to a place: what ``nas.failpoints.reach`` names, and the
training's import of torch, its end of preparation and its first step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Loaded by every Python that the search starts, before its modules take the name ``reach``.
CODE = """
import os, time
import nas.failpoints

def note(name):
    with open(os.environ["NAS_NOTES"], "a") as file:
        file.write(f"{name} {os.getpid()} {time.monotonic():.6f} {time.process_time():.6f}\\n")

wrapped = []

def reach(name):
    note(name)
    if name == "job_taken" and not wrapped:
        from nas.training import train
        note("torch_imported")
        step_of = train.step_of
        wrapped.append(step_of)
        def noting(*told):
            note("prepared")
            step, first = step_of(*told), [True]
            def call(*batch):
                if first:
                    note("first_step")
                    first.clear()
                return step(*batch)
            return call
        train.step_of = noting

nas.failpoints.reach = reach
nas.failpoints.note = note
"""


@dataclass(frozen=True, slots=True)
class Note:
    """``moment`` by time.monotonic(), ``used`` of the process's processor time; in seconds."""

    name: str
    pid: str
    moment: float
    used: float


def environment(folder: str, *path: str) -> dict[str, str]:
    """In which what is started leaves its notes in ``folder``; ``path`` is imported from first."""
    Path(folder, "sitecustomize.py").write_text(CODE)
    Path(folder, "notes").touch()
    imported = [folder, *path, os.environ.get("PYTHONPATH", "")]
    told = {"PYTHONPATH": os.pathsep.join(filter(None, imported))}
    return {**os.environ, **told, "NAS_NOTES": str(Path(folder, "notes"))}


def read(folder: str) -> list[Note]:
    lines = map(str.split, Path(folder, "notes").read_text().splitlines())
    return [Note(name, pid, float(moment), float(used)) for name, pid, moment, used in lines]
