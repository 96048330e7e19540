"""The cost of reading a folder of images: decoding, listing, sharing.

    python benchmarks/images.py decode --data DIR
    python benchmarks/images.py list [--files 200000] [--data DIR]
    python benchmarks/images.py workers [--images 2000] [--side 224] [--workers 4]

``decode``: seconds of a first and a second start on DIR (class folders, with or without parts),
each in a process and with a cache of its own; for comparison, Pillow in one thread, and
torchvision's ImageFolder with a DataLoader of one worker per core, on the same files and size.
A start is all that ``nas search`` does with the images before its first trial: the identity, and
the summary.
``list``: seconds and memory (of the process itself) of a first and a second start, and of a trial,
on JPEGs of 8x8 pixels in 1,000 classes that differ in their last bytes, or on DIR if given.
1,280,000 take 5 GB of disk, and are removed.
``workers``: the peak private memory (/proc/PID/smaps_rollup) of processes that read an epoch's
batches of one set of random images, one process and several, and of a set of a quarter the size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

START = """
import json, resource, sys, time
from pathlib import Path
began, cpu = time.perf_counter(), time.process_time()
"""
END = """
used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"seconds": time.perf_counter() - began, "MiB": used[0].ru_maxrss / 1024,
                  "CPU seconds": sum(u.ru_utime + u.ru_stime for u in used), **told}))
"""
OURS = """
import dataclasses
from nas import data
from nas.data import findings
from nas.job import DataRef
ref = DataRef(name="imagefolder", dir=sys.argv[1])
ref = dataclasses.replace(ref, identity=data.identity(ref))
found = findings.examine(ref)
told = {"images": sum(found.parts.values()), "shape": found.shape, "identity": ref.identity}
"""
TRIAL = """
from nas import data
from nas.job import DataRef
ref = DataRef(name="imagefolder", dir=sys.argv[1], identity=sys.argv[2])
told = {"images": len(data.load(ref, "train"))}
"""
PILLOW = """
import numpy as np
from PIL import Image
side, count = int(sys.argv[2]), 0
for path in Path(sys.argv[1]).rglob("*.*"):
    with Image.open(path) as image:
        small = image.convert("RGB")
        if small.size != (side, side):
            small = small.resize((side, side))
        count += len(np.asarray(small)) > 0
told = {"images": count}
"""
IMAGEFOLDER = """
import os, torchvision
from torch.utils.data import DataLoader
from torchvision.transforms import PILToTensor, Compose, Resize
side = int(sys.argv[2])
transform = Compose([Resize((side, side)), PILToTensor()])
count = 0
for folder in ([Path(sys.argv[1])] if not (Path(sys.argv[1]) / "train").is_dir() else
               [path for path in Path(sys.argv[1]).iterdir() if path.is_dir()]):
    files = torchvision.datasets.ImageFolder(folder, transform)
    loader = DataLoader(files, batch_size=256, num_workers=len(os.sched_getaffinity(0)))
    count += sum(len(labels) for _, labels in loader)
told = {"images": count}
"""
TRAINED = """
import torch
import numpy as np
from nas.data import batches
from nas.data.images import Images
torch.set_num_threads(1)
def private():
    told = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in told if line.startswith("Private_")) / 1024
before = most = private()
images = Images.of(np.load(sys.argv[1], mmap_mode="c"), np.arange(int(sys.argv[2])) % 10)
normal = batches.statistics(images)
source = batches.Source.of(images, torch.device("cpu"))
prepare = batches.preparation(normal, images.pixels.shape[2:])
for _ in batches.batches(source, torch.randperm(len(images)), 64, prepare):
    most = max(most, private())
told = {"private MiB": most - before}
"""


def run(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What a piece of code prints in a process of its own, with its seconds and peak memory."""
    return read(begin(code, *arguments, **environment))


def begin(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START + code + END, *arguments]
    told = {**os.environ, **environment}
    return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    return dict(json.loads(out.splitlines()[-1]))


def show(name: str, told: dict[str, Any]) -> None:
    shown = [f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}"
             for key, value in told.items() if key != "identity"]  # fmt: skip
    print(f"{name:32}", ", ".join(shown), flush=True)


def decode(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        first = run(OURS, str(folder), NAS_CACHE=cache)
        show("first start", first)
        show("second start", run(OURS, str(folder), NAS_CACHE=cache))
        show("a trial", run(TRIAL, str(folder), first["identity"], NAS_CACHE=cache))
    side = str(min(first["shape"][1:]))
    show("Pillow, one thread", run(PILLOW, str(folder), side))
    show("ImageFolder and DataLoader", run(IMAGEFOLDER, str(folder), side))


def listed(files: int, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        if not folder:
            folder = Path(temporary, "images")
            began = time.perf_counter()
            make(folder, files)
            print(f"made in {time.perf_counter() - began:.1f} s")
        cache = f"{temporary}/cache"
        first = run(OURS, str(folder), NAS_CACHE=cache)
        show("first start", first)
        show("second start", run(OURS, str(folder), NAS_CACHE=cache))
        show("a trial", run(TRIAL, str(folder), first["identity"], NAS_CACHE=cache))


def make(folder: Path, files: int) -> None:
    import io

    import numpy as np
    from PIL import Image

    rng, kinds = np.random.default_rng(0), []
    for _ in range(16):
        kept = io.BytesIO()
        pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(kept, "JPEG", quality=50)
        kinds.append(kept.getvalue())
    for n in range(1000):
        place = folder / f"n{n:08}"
        place.mkdir(parents=True)
        for k in range(files // 1000):
            with open(f"{place}/n{n:08}_{k}.JPEG", "wb", buffering=0) as file:
                file.write(kinds[k % 16] + f"{n}-{k}".encode())


def workers(images: int, side: int, count: int) -> None:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        for number in (images // 4, images):
            path = f"{folder}/{number}.npy"
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8,
                                               shape=(number, 3, side, side))  # fmt: skip
            rng = np.random.default_rng(0)
            for n in range(number):
                pixels[n] = rng.integers(0, 256, pixels.shape[1:], np.uint8)
            pixels.flush()
            for at_once in (1, count):
                running = [begin(TRAINED, path, str(number)) for _ in range(at_once)]
                private = [read(process)["private MiB"] for process in running]
                told = ", ".join(f"{mib:.0f}" for mib in private)
                print(f"{pixels.nbytes / 2**20:.0f} MiB of images, {at_once} workers: {told} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["decode", "list", "workers"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--workers", type=int, default=4)
    told = parser.parse_args()
    if told.what == "decode":
        decode(told.data)
    elif told.what == "list":
        listed(told.files, told.data)
    else:
        workers(told.images, told.side, told.workers)


if __name__ == "__main__":
    main()
