"""Every shipped space and every network of the zoo, exported, against torch.

    python benchmarks/exports.py [--samples 20] [NAME ...]

For each the largest difference from torch's logits, of the largest logit, through ONNX Runtime,
torch.export's program, the plain source and the weights; of a space over its samples. Weights are
random, batch statistics and scales too. Networks of the zoo take the smallest square input of 32,
64, 128 or 224 pixels that they can.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import nas
from nas.data.batches import Normal
from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.spaces import zoo
from nas.spaces.space import load_space, shipped
from nas.training.export import FORMATS, export
from nas.training.models import Card, Model, save_model


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


def differences(architecture: Architecture) -> dict[str, float]:
    """By format."""
    made = model(architecture)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "model.safetensors")
        save_model(weights, made.network, made.card)
        told = {}
        for name, kind in FORMATS.items():
            done = export(made, name, Path(folder, f"exported{kind.ending}"), weights)
            assert done.difference is not None
            told[name] = done.difference
    return told


def smallest(name: str) -> Architecture:
    for side in (32, 64, 128, 224):
        try:
            return zoo.network(name, (3, side, side), 10)
        except NasError:
            continue
    return zoo.network(name)


def line(name: str, found: list[dict[str, float]], began: float) -> str:
    told = [f"{max(f[format] for f in found):8.1e}" for format in FORMATS]
    return f"{name:20} {len(found):3} {'  '.join(told)}  {time.perf_counter() - began:6.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("names", nargs="*", help="spaces and networks  [default: all]")
    args = parser.parse_args()
    print(f"{'':20}   n {'  '.join(f'{name:>8}' for name in FORMATS)}", flush=True)
    for name in args.names or shipped():
        began = time.perf_counter()
        if name in zoo.names():
            found = [differences(smallest(name))]
        else:
            space = load_space(name, (3, 32, 32), 10)
            found = [differences(space.sample(seed)) for seed in range(args.samples)]
        print(line(name, found, began), flush=True)


if __name__ == "__main__":
    main()
