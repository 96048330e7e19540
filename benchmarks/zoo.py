"""The zoo beside torchvision and the papers: the table of docs/networks.md, both modules' times.

python benchmarks/zoo.py                             the table, a second
python benchmarks/zoo.py --time                      one network of each family, minutes
python benchmarks/zoo.py --time --size 224 resnet50  at full size, several minutes
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from nas.spaces import zoo
from nas.spaces.space import load_space
from nas.training import weights

# Parameters and multiply-adds as the papers give them: empty where they do not. ResNet's bottleneck
# has its stride on the first 1x1 there, and on the 3x3 in torchvision and here, which takes more.
PAPERS = {
    "lenet5": ("60 k", ""),  # section II.B
    "alexnet_paper": ("60 M", ""),  # abstract
    "vgg11": ("133 M", ""),  # table 2, as the next three
    "vgg13": ("133 M", ""),
    "vgg16": ("138 M", ""),
    "vgg19": ("144 M", ""),
    "googlenet_paper": ("", "1.5 G"),  # section 1, the budget that it was designed for
    "resnet18": ("", "1.8 G"),  # table 1, as the next four
    "resnet34": ("", "3.6 G"),
    "resnet50": ("", "3.8 G"),
    "resnet101": ("", "7.6 G"),
    "resnet152": ("", "11.3 G"),
    "resnext50_32x4d": ("25.0 M", "4.2 G"),  # table 1
    "resnext101_64x4d": ("", "15 G"),  # above table 4
    "resnext101_32x8d": ("88 M", "16 G"),  # the authors' model card
    "wide_resnet50_2": ("68.9 M", ""),  # table 8
    "densenet201": ("20 M", ""),  # beside figure 3
    "mobilenet_v2": ("3.4 M", "0.30 G"),  # table 4
}
FAMILIES = (
    "alexnet", "vgg11", "vgg11_bn", "googlenet", "resnet18", "resnet50", "resnext50_32x4d",
    "densenet121", "mobilenet_v2",
)  # fmt: skip
BATCH = 8


def table() -> Iterator[str]:
    """Markdown: a network a row; ours, torchvision's and the paper's figures beside one another."""
    yield "| network | source | params | torchvision | paper | GMACs | torchvision | paper |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for name in zoo.names():
        network = zoo.network(name)
        params = macs = ""
        if name in weights.torchvision_names():
            meta = models.get_model_weights(name).DEFAULT.meta
            params, macs = f"{meta['num_params']:,}", f"{meta['_ops']:.3f}"
        told = PAPERS.get(name, ("", ""))
        cells = [
            name, load_space(name).about, f"{network.params:,}", params, told[0],
            f"{network.macs / 1e9:.{3 if network.macs > 1e7 else 6}f}", macs, told[1],
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def timing(names: list[str], size: int, rounds: int) -> Iterator[str]:
    """Markdown: milliseconds of a forward and of a backward pass in training, ours and theirs in
    turn on the same weights and images: each one's least, and ours over theirs, of the least and
    of the two calls of a round (their median and middle half), which met the same neighbours."""
    yield (
        f"batch {BATCH}, {size}x{size}, {torch.get_num_threads()} thread(s), {rounds} rounds, "
        f"torch {torch.__version__}"
    )
    yield ""
    yield "| network | pass | ours | theirs | ratio | ratio of a round | middle half |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for name in names:
        module = models.get_model(name, weights=None)
        x = torch.randn(BATCH, 3, size, size)
        seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
        same = weights.load_torchvision(name, module.state_dict())
        calls = {"ours": step(same, x), "theirs": step(module, x)}
        for i in range(rounds + 2):
            for who in ("ours", "theirs") if i % 2 else ("theirs", "ours"):
                taken = calls[who]()
                if i >= 2:  # the first two make caches and memory ready
                    seconds[who].append(taken)
        for i, part in enumerate(("forward", "backward")):
            ours, theirs = ([taken[i] for taken in seconds[who]] for who in ("ours", "theirs"))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            yield (
                f"| {name} | {part} | {min(ours) * 1e3:.1f} | {min(theirs) * 1e3:.1f} | "
                f"{min(ours) / min(theirs):.3f} | {middle:.3f} | {low:.3f} to {high:.3f} |"
            )


def step(module: nn.Module, x: Tensor) -> Callable[[], tuple[float, float]]:
    """A training step without the optimizer's; a call answers the seconds of its two passes.

    Of processor time: others on the machine blur the wall's.
    """
    module.train()

    def run() -> tuple[float, float]:
        module.zero_grad()
        began = time.process_time()
        loss = total(module(x))
        middle = time.process_time()
        loss.backward()
        return middle - began, time.process_time() - middle

    return run


def total(output: Any) -> Tensor:
    """The sum of all logits: of a tensor, or of a nest of them as GoogLeNet has in training."""
    if isinstance(output, Tensor):
        return output.sum()
    return torch.stack([total(part) for part in output]).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="networks to time; one of each family otherwise")
    parser.add_argument("--time", action="store_true", help="time forward and backward passes")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    told = timing(args.names or list(FAMILIES), args.size, args.rounds) if args.time else table()
    for line in told:
        print(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
