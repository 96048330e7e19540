"""`nas predict` against the script that one would write, on a folder of images: time and memory.

    taskset -c 0 python benchmarks/predict.py DIR [--pattern PATTERN]

Each runs in a process of its own, on the files of DIR and on a tenth of them, which shows whether
memory grows with their number. Weights are random. CPU seconds are printed too: on a shared machine
wall-clock time says little.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nas
from nas.data.batches import Normal
from nas.training.card import Card
from nas.training.models import save_model

PATTERN = "INPUT(3, 32, 32) -> [[CONV(32) -> BN -> RELU]*2 -> POOL]*3 -> GAP -> FC(10)"

SCRIPT = """
import sys
from pathlib import Path
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
import nas

class Files(Dataset):
    def __init__(self, root):
        self.paths = sorted(Path(root).rglob("*.jpg"))
        self.prepare = transforms.Compose([
            transforms.ToTensor(), transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))])
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, i):
        return self.prepare(Image.open(self.paths[i]).convert("RGB")), str(self.paths[i])

network = nas.load_model(sys.argv[1]).network
with torch.inference_mode():
    for images, names in DataLoader(Files(sys.argv[2]), batch_size=256):
        best, classes = network(images).softmax(1).max(1)
        for name, p, c in zip(names, best.tolist(), classes.tolist()):
            print(name, c, f"{p:.6f}", sep=",")
"""


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and the peak of the memory in MB."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path)
    parser.add_argument("--pattern", default=PATTERN)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = sorted(args.dir.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        model, tenth = Path(folder, "model.safetensors"), Path(folder, "tenth")
        architecture = nas.parse(args.pattern)
        names = tuple(f"class {i}" for i in range(architecture.classes))
        normal = Normal((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
        card = Card(architecture=architecture, classes=names, normal=normal)
        save_model(model, nas.build(architecture, seed=0), card)
        for number, file in enumerate(files[::10]):
            (tenth / str(number % 10)).mkdir(parents=True, exist_ok=True)
            (tenth / str(number % 10) / f"{number}.jpg").symlink_to(file.absolute())
        predict = [sys.executable, "-m", "nas.cli", "predict", model]
        print(f"{'':12} {'files':>7} {'s':>7} {'CPU s':>7} {'a CPU s':>8} {'MB':>6}")
        for place, count in ((tenth, len(files[::10])), (args.dir, len(files))):
            for name, command in {
                "nas predict": [*predict, place, "-f", "csv"],
                "script": [sys.executable, "-c", SCRIPT, model, place],
            }.items():
                clock, cpu, memory = measured([str(part) for part in command])
                rate = count / cpu
                print(
                    f"{name:12} {count:7,} {clock:7.1f} {cpu:7.1f} {rate:8,.0f} {memory:6.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
