"""What a candidate gains that begins with the weights of a trained one it shares most with.

    python benchmarks/inherited.py [--images FOLDER] [--parents 5] [--epochs 20]

A network of ``resnet_like`` is drawn and trained, then three that differ from it in one choice, as
proposals late in a search do: from scratch (two seeds; their mean is the truth), for a third of the
epochs, and with what fits of the parent's weights: layers in a row of the same kinds, the channels
that both have, kernels about their middle. Printed: the difference to the truth in points of
validation accuracy, with its standard error, and Kendall's tau between the ways and the truth.
Digits, or a folder of images at 16x16 pixels.
"""

from __future__ import annotations

import argparse
import difflib
import random

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from nas import data
from nas.job import DataRef, Job
from nas.language.architecture import Architecture
from nas.spaces.space import load_space
from nas.training.train import begin, fit

CPU = torch.device("cpu")
CHILDREN = 3
MACS = 4_000_000  # larger ones are not drawn


def kinds(module: nn.Module) -> str:
    return f"{type(module).__name__}({','.join(map(kinds, module.children()))})"


@torch.no_grad()
def inherit(child: nn.Module, parent: nn.Module) -> None:
    """Copies what fits, in place."""
    theirs, own = [*parent.children()], [*child.children()]
    alike = difflib.SequenceMatcher(None, [*map(kinds, theirs)], [*map(kinds, own)], autojunk=False)
    for begun, at, count in alike.get_matching_blocks():
        for source, target in zip(theirs[begun:][:count], own[at:][:count], strict=True):
            given = source.state_dict()
            for name, tensor in target.state_dict().items():
                pairs = [*zip(tensor.shape, given[name].shape, strict=True)]
                to = tuple(_common(n, o, middle=k > 1) for k, (n, o) in enumerate(pairs))
                of = tuple(_common(o, n, middle=k > 1) for k, (n, o) in enumerate(pairs))
                tensor[to] = given[name][of]


def _common(size: int, other: int, middle: bool) -> slice:
    count = min(size, other)
    first = (size - count) // 2 if middle else 0
    return slice(first, first + count)


def train(
    architecture: Architecture, ref: DataRef, epochs: int, seed: int, parent: nn.Module | None
) -> tuple[nn.Module, float]:
    """The trained module, and its accuracy in percent."""
    job = Job(pattern=str(architecture), data=ref, epochs=epochs, seed=seed, latency=False)
    _, module, normal = begin(job, CPU)
    if parent is not None:
        inherit(module, parent)
    curve = fit(module, job, lambda _: None, device=CPU, normal=normal)
    return module, 100 * curve[-1].accuracy


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--images", default="", help="a folder of classes; digits, if not given")
    options.add_argument("--parents", type=int, default=5)
    options.add_argument("--epochs", type=int, default=20)
    told = options.parse_args()
    torch.set_num_threads(1)
    ref = DataRef(name="imagefolder", dir=told.images, size=16) if told.images else DataRef()
    info, rng = data.describe(ref), random.Random(0)
    space = load_space("resnet_like", info.shape, len(info.classes))
    third = max(2, round(told.epochs / 3))
    rows: list[dict[str, float]] = []
    while len(rows) < CHILDREN * told.parents:
        params, architecture = space.draw(rng)
        if architecture.macs > MACS:
            continue
        parent, accuracy = train(architecture, ref, told.epochs, 0, None)
        children: dict[str, Architecture] = {}
        while len(children) < CHILDREN:
            kept = dict(params)
            del kept[rng.choice([*kept])]
            _, child = space.complete(kept, rng)
            if child.macs <= MACS and str(child) != str(architecture):
                children[str(child)] = child
        for child in children.values():
            ways = {
                "scratch": (told.epochs, 1, None),
                "scratch again": (told.epochs, 2, None),
                "a third": (third, 1, None),
                "a third, inherited": (third, 1, parent),
                "inherited": (told.epochs, 1, parent),
                "scratch, twice the epochs": (2 * told.epochs, 1, None),
            }
            found = {way: train(child, ref, *how)[1] for way, how in ways.items()}
            rows.append({"the parent": accuracy, **found})
            print(len(rows), ", ".join(f"{k} {v:.2f}" for k, v in rows[-1].items()), flush=True)
    truth = np.array([(row["scratch"] + row["scratch again"]) / 2 for row in rows])
    for way in rows[0]:
        values = np.array([row[way] for row in rows])
        apart = values - truth
        error = apart.std(ddof=1) / len(rows) ** 0.5
        tau = kendalltau(values, truth).statistic
        print(f"{way:26} {apart.mean():+.2f} ± {error:.2f} points, tau {tau:.2f}")


if __name__ == "__main__":
    main()
