"""Draws the networks of docs/drawings: three of the literature and one of the space mixed.

    python benchmarks/drawings.py

Takes a second; the same code writes the same files, which a test compares.
"""

from __future__ import annotations

from pathlib import Path

import nas

DOCS = Path(__file__).parent.parent / "docs" / "drawings"
MIXED = 19  # the seed of a network with inception, dense and residual blocks
PHOTOGRAPHS = (3, 32, 32)


def drawings() -> dict[str, str]:
    """Each file's name and text."""
    zoo = {
        name: nas.load_space(name).sample(0) for name in ("resnet18", "googlenet", "densenet121")
    }
    mixed = nas.load_space("mixed", PHOTOGRAPHS, 10).sample(MIXED)
    drawn = {f"{name}.svg": network.svg(name) for name, network in zoo.items()}
    return {**drawn, "mixed.svg": mixed.svg(f"mixed, seed {MIXED}")}


def main() -> None:
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, text in drawings().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"{DOCS / name}: {len(text.encode()) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
