"""Every shipped space and every network of the zoo, exported and compared with torch.

    python benchmarks/exports.py [--samples 20] [NAME ...]

For each, the largest difference from torch's logits, relative to the largest logit, through every
format here, and twice more as a user would run it: the plain source in an environment with torch
alone, the ONNX file in one with ONNX Runtime alone. For a space it is the worst of its samples.
Failures are listed below the table, and give exit status 1. Weights, batch statistics and scales
are random. Spaces are tested at 32 pixels; networks of the zoo at the smallest square input of 32,
64, 128 or 224 pixels that they can take.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement
from torch import nn

import nas
from nas.data.batches import Normal
from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.spaces import zoo
from nas.spaces.space import load_space, shipped
from nas.training.card import Card
from nas.training.export import FORMATS, deployed, export, noise
from nas.training.models import Model, save_model

# What runs a file without this package: given are the environment's folder, and folders with the
# file and pixels.bin. Each writes logits.bin.
ALONE = {
    "torch": """
import pathlib, runpy, sys
sys.path.append(sys.argv[1])
import torch
for folder in map(pathlib.Path, sys.argv[2:]):
    held = runpy.run_path(str(folder / "exported.py"))
    shape = held["CHANNELS"], held["HEIGHT"], held["WIDTH"]
    data = bytearray((folder / "pixels.bin").read_bytes())
    pixels = torch.frombuffer(data, dtype=torch.uint8).view(-1, *shape)
    with torch.inference_mode():
        logits = held["logits"](held["load"](), pixels)
    (folder / "logits.bin").write_bytes(bytes(logits.flatten().view(torch.uint8).tolist()))
""",
    "onnxruntime": """
import pathlib, sys
sys.path.append(sys.argv[1])
import numpy, onnxruntime
for folder in map(pathlib.Path, sys.argv[2:]):
    session = onnxruntime.InferenceSession(str(folder / "exported.onnx"))
    (given,) = session.get_inputs()
    pixels = numpy.fromfile(folder / "pixels.bin", "uint8").reshape(-1, *given.shape[1:])
    session.run(None, {given.name: pixels})[0].tofile(folder / "logits.bin")
""",
}
MADE_FOR = {"torch": "python", "onnxruntime": "onnx"}
COLUMNS = (*FORMATS, *(f"{name} alone" for name in ALONE))


def environment(name: str, folder: Path) -> Path:
    """A folder to import from that holds a distribution and what it requires, by links: nothing
    else that is installed here."""
    left, seen = [name], set()
    while left:
        found = distribution(left.pop())
        if found.name in seen:
            continue
        seen.add(found.name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            link = folder / top
            if top != "__pycache__" and not link.exists():
                link.symlink_to(found.locate_file(top))
        wanted = map(Requirement, found.requires or ())
        left += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return folder


def model(architecture: Architecture) -> Model:
    """With statistics and scales as a training might leave them."""
    network = nas.build(architecture, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    channels = architecture.input[0]
    return Model(
        network.eval(),
        Card(
            architecture=architecture,
            classes=tuple(f"class {i}" for i in range(architecture.classes)),
            normal=Normal((0.45,) * channels, (0.22,) * channels),
        ),
    )


def here(made: Model, folder: Path, failures: list[str]) -> dict[str, float]:
    """The differences by format; what was made stays in the folder, as ``exported``."""
    folder.mkdir()
    weights = folder / "model.safetensors"
    save_model(weights, made.network, made.card)
    told: dict[str, float] = {}
    for name, kind in FORMATS.items():
        try:
            done = export(made, name, folder / f"exported{kind.ending}", weights)
        except NasError as error:
            failures.append(f"{name}: {error}")
            continue
        assert done.difference is not None
        told[name] = done.difference
    return told


def elsewhere(name: str, packages: Path, made: dict[Path, Model], failures: list[str]) -> float:
    """The largest difference of the exported files in a process with one package alone."""
    ready = [f for f in made if (f / f"exported{FORMATS[MADE_FOR[name]].ending}").exists()]
    run = [sys.executable, "-I", "-S", "-c", ALONE[name], str(packages), *map(str, ready)]
    ended = subprocess.run(run, capture_output=True, text=True)
    if ended.returncode:
        failures.append(f"{name} alone: {ended.stderr.strip().splitlines()[-1]}")
        return float("nan")
    worst = 0.0
    for folder in ready:
        with torch.inference_mode():
            expected = deployed(made[folder])(noise(made[folder].input)).numpy()
        found = np.fromfile(folder / "logits.bin", "float32").reshape(expected.shape)
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst


def differences(
    architectures: Sequence[Architecture], environments: dict[str, Path], failures: list[str]
) -> dict[str, float]:
    """The worst of some networks, by column; without one where nothing could be compared."""
    with tempfile.TemporaryDirectory() as temporary:
        made: dict[Path, Model] = {}
        told: dict[str, float] = {}
        for number, architecture in enumerate(architectures):
            folder = Path(temporary, str(number))
            made[folder] = model(architecture)
            missed: list[str] = []
            for name, found in here(made[folder], folder, missed).items():
                told[name] = max(told.get(name, 0.0), found)
            failures += [f"{why} ({architecture})" for why in missed]
            noise(made[folder].input).numpy().tofile(folder / "pixels.bin")
        for name, packages in environments.items():
            told[f"{name} alone"] = elsewhere(name, packages, made, failures)
        return told


def smallest(name: str) -> Architecture:
    for side in (32, 64, 128, 224):
        try:
            return zoo.network(name, (3, side, side), 10)
        except NasError:
            continue
    return zoo.network(name)


def drawn(name: str, samples: int) -> list[Architecture]:
    if name in zoo.names():
        return [smallest(name)]
    space = load_space(name, (3, 32, 32), 10)
    return [space.sample(seed) for seed in range(samples)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("names", nargs="*", help="spaces and networks  [default: all]")
    args = parser.parse_args()
    print(f"| space or network | networks | {' | '.join(COLUMNS)} | failed | seconds |")
    print(f"|---|--:|{'--:|' * len(COLUMNS)}--:|--:|", flush=True)
    failures: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environments = {}
        for name in ALONE:
            (there := Path(folder, name)).mkdir()
            environments[name] = environment(name, there)
        for name in args.names or shipped():
            began = time.perf_counter()
            networks = drawn(name, args.samples)
            missed: list[str] = []
            found = differences(networks, environments, missed)
            if missed:
                failures[name] = missed
            told = [f"{found[c]:.1e}" if c in found else "" for c in COLUMNS]
            count = f"{len(networks)} | {' | '.join(told)} | {len(missed)}"
            print(f"| {name} | {count} | {time.perf_counter() - began:.0f} |", flush=True)
    for name, missed in failures.items():
        for why in missed:
            print(f"\n{name}: {why}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
