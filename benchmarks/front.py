"""The picture of a front in README, as `nas pareto` draws it:
python benchmarks/front.py --study NAME -o docs/front.png"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--storage", default="sqlite:///nas.db")
    options.add_argument("--study", required=True)
    options.add_argument("-o", "--output", default="docs/front.png")
    told = options.parse_args()
    command = [sys.executable, "-m", "nas.cli", "pareto", "--storage", told.storage]
    subprocess.run([*command, "--study", told.study, "-o", told.output], check=True)


if __name__ == "__main__":
    main()
