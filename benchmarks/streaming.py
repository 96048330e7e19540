"""Training on streamed images, compared with the same images in memory.

    python benchmarks/streaming.py [--images 600] [--size 224] [--shm-mib 64]

JPEGs of 500x375 pixels are made (``benchmarks/decoders.py``), and a small network is trained on
them for two epochs, each time in a process of its own on one thread: from the decoded array, from
the array through the streaming reader, and decoded on the fly, from a folder's files and from tars
(``nas data pack``). Printed: images per second of processor time in the second epoch, also relative
to the array's; the peak private memory, and its prediction; and whether the losses are bit-wise
equal. With ``--shm-mib`` (as root) all runs in a mount namespace whose /dev/shm has that many MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from decoders import made

PATTERN = "INPUT -> CONV({width}, kernel=7, stride=4) -> BN -> RELU -> [CONV({width}) -> BN -> RELU -> POOL]*3 -> GAP -> FC"  # noqa: E501
TRAINED = """
import json, os, sys, threading, time
from nas.data import datasets
from nas.job import DataRef, Job, Recipe
from nas.language.architecture import parse
from nas.training import footprint, train
from nas.training.network import build
from nas.workers.seat import private_memory
import torch
torch.set_num_threads(1)
place, size, pattern, budget = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
job = Job(pattern=pattern, data=DataRef(name="imagefolder", dir=place, size=size), epochs=2,
          recipe=Recipe(flip=True))
train.prepare(job)
most, over = 0, threading.Event()
def watch():
    global most
    while not over.wait(0.01):
        most = max(most, private_memory(os.getpid()))
threading.Thread(target=watch).start()
images = datasets.load(job.data, "train")
architecture = parse(pattern, (3, size, size), len(datasets.describe(job.data).classes))
ends = []
curve = train.fit(build(architecture, seed=0), job, lambda _: ends.append(time.process_time()),
                  device=torch.device("cpu"), budget=budget)
over.set()
streamed = budget == 0 or datasets.streamed(job.data)
print(json.dumps({
    "speed": len(images) / (ends[1] - ends[0]),
    "losses": [point.train_loss for point in curve],
    "held": most >> 20,
    "predicted": footprint.trial(architecture, job.recipe, streamed) >> 20,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--width", type=int, default=32, help="of the network")
    parser.add_argument("--shm-mib", type=int, default=0)
    told = parser.parse_args()
    if told.shm_mib:
        mount = f"mount -t tmpfs -o size={told.shm_mib}m tmpfs /dev/shm && df -m /dev/shm | tail -1"
        own = [sys.executable, __file__, f"--images={told.images}", f"--size={told.size}",
               f"--width={told.width}"]  # fmt: skip
        shell = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *own]
        sys.exit(subprocess.run(shell, check=False).returncode)
    with tempfile.TemporaryDirectory() as temporary:
        folder, tars = Path(temporary, "images"), Path(temporary, "tars")
        for n, content in enumerate(made(told.images, 375, 500)):
            place = folder / "ab"[n % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{n:05}.jpg").write_bytes(content)
        command = [sys.executable, "-m", "nas.cli", "data", "pack", str(folder), "-o", str(tars)]
        subprocess.run(command, check=True)
        first = None
        for name, place, budget, limit in (
            ("array", folder, 1 << 40, "1000"),
            ("array, streamed", folder, 0, "1000"),
            ("files, decoded as it goes", folder, 1 << 40, "0"),
            ("tars, decoded as it goes", tars, 1 << 40, "0"),
        ):
            pattern = PATTERN.format(width=told.width)
            run = subprocess.run(
                [sys.executable, "-c", TRAINED, str(place), str(told.size), pattern, str(budget)],
                env={**os.environ, "NAS_CACHE_GB": limit, "NAS_CACHE": f"{temporary}/c{limit}"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found = json.loads(run.stdout.splitlines()[-1])
            first = first or found
            print(
                f"{name:26} {found['speed']:7,.1f} images a second "
                f"({found['speed'] / first['speed']:.2f}), held {found['held']:,} MiB, predicted "
                f"{found['predicted']:,} ({found['predicted'] / found['held']:.2f}), losses "
                + ("the same" if found["losses"] == first["losses"] else f"{found['losses']}"),
                flush=True,
            )


if __name__ == "__main__":
    main()
