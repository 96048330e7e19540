"""Sampled architectures a second, each with its params, MACs and shapes, on one core without torch.

    python benchmarks/sampling.py [--count 2000]

Takes about a minute. Rates are of CPU time, so that a busy machine does not blur them.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from nas.spaces.space import load_space, shipped

INPUTS = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)]


def rate(name: str, input: tuple[int, int, int], count: int) -> float:
    """Architectures a second of CPU time, the first ones, with nothing in the caches, included."""
    space = load_space(name, input=input)
    rng = random.Random(0)
    began = time.process_time()
    for _ in range(count):
        _, architecture = space.draw(rng)
        assert architecture.params >= 0
        assert architecture.macs >= 0
        assert architecture.shapes
    return count / (time.process_time() - began)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=2_000)
    count = arguments.parse_args().count
    print("space".ljust(16), *("x".join(map(str, input)).rjust(10) for input in INPUTS))
    for name, path in shipped().items():
        if path.parent.name != "zoo":
            rates = [rate(name, input, count) for input in INPUTS]
            print(name.ljust(16), *(f"{value:10,.0f}" for value in rates))
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()
