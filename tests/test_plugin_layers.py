"""A leaf layer of a plug-in: a class and its name suffice for every feature."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from patterns import counted
from test_footprint import assert_predicted

import nas
from nas import plugins
from nas.blocks import BLOCKS
from nas.errors import NasError, ShapeError
from nas.layers import LAYERS
from nas.training import footprint
from nas.training.indicators import naswot
from nas.training.python_source import python_source

# Three that the language does not have: one with weights, which normalises; one that changes the
# map's shape; one whose module is the plug-in's own.
PLUGIN = '''
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.errors import ShapeError
from nas.layers import LAYERS, Cost, Kept, Leaf, Shape, Size, Width, feature_map

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class GroupNorm(Leaf):
    """Wu and He 2018, section 3."""

    spare = True
    groups: Size = 1

    def cost(self, x: Shape) -> Cost:
        if x[0] % self.groups:
            raise ShapeError(f"{self.groups} groups do not divide {x[0]} channels")
        return Cost(x, 2 * x[0], 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.GroupNorm(self.groups, x[0])

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=True)


@dataclass(frozen=True, slots=True)
class Shuffle(Leaf):
    """Shi et al. 2016, equation 4."""

    factor: Size = 2

    def cost(self, x: Shape) -> Cost:
        channels, height, width = feature_map(x)
        if channels % self.factor**2:
            raise ShapeError(f"{channels} channels do not fill squares of {self.factor}")
        f = self.factor
        return Cost((channels // f**2, f * height, f * width), 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.PixelShuffle(self.factor)

    def keeps(self, x: Shape) -> Kept:
        return Kept()


@dataclass(frozen=True, slots=True)
class Square(Leaf):
    def cost(self, x: Shape) -> Cost:
        return Cost(x, 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        class Squared(nn.Module):
            def forward(self, y):
                return y * y

        return Squared()

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=True)


@dataclass(frozen=True, slots=True)
class Softplus(Leaf):
    def cost(self, x: Shape) -> Cost:
        return Cost(x, 0, 0)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        return nn.Softplus()

    def keeps(self, x: Shape) -> Kept:
        return Kept(input=True)


@dataclass(frozen=True, slots=True)
class Bilinear(Leaf):
    """Each feature with each: weights that nothing here draws but torch."""

    width: Width

    def cost(self, x: Shape) -> Cost:
        weights = self.width * math.prod(x) ** 2
        return Cost((self.width,), weights + self.width, weights)

    def module(self, x: Shape, fresh: bool) -> nn.Module:
        from torch import nn

        class Quadratic(nn.Bilinear):
            def forward(self, y):
                return super().forward(y.flatten(1), y.flatten(1))

        return Quadratic(math.prod(x), math.prod(x), self.width)

    def keeps(self, x: Shape) -> Kept:
        return Kept(numbers=2 * math.prod(x))


LAYERS |= {
    "GN": GroupNorm,
    "SHUFFLE": Shuffle,
    "SQUARE": Square,
    "SOFTPLUS": Softplus,
    "BILINEAR": Bilinear,
}
'''
PATTERN = (
    "INPUT(3, 16, 16) -> CONV(width=16) -> GN(groups=4) -> RELU -> POOL -> SHUFFLE -> "
    "CONV(width=8) -> SOFTPLUS -> GN -> {}GAP -> FC(width=5)"
)
OWN = PATTERN.format("SQUARE -> ")
PLAIN = PATTERN.format("")


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    known = dict(LAYERS)
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN)
    plugins.load(path)
    yield path
    for name in set(LAYERS) - set(known):
        del LAYERS[name]


def test_a_plug_ins_layers_read_print_and_count_as_torch_does() -> None:
    architecture = nas.parse(OWN)
    assert str(architecture) == OWN
    assert nas.parse(str(architecture)) == architecture
    params, flops, shapes = counted(architecture)
    assert (architecture.params, 2 * architecture.macs) == (params, flops)
    assert list(architecture.shapes) == shapes
    assert (4, 16, 16) in shapes


def test_a_plug_ins_errors_name_the_element_its_place_and_the_rule() -> None:
    with pytest.raises(
        ShapeError, match=r"GN\(3\) at column 19: 3 groups do not divide 4 channels"
    ):
        nas.parse("INPUT(4, 8, 8) -> GN(3) -> FC")
    with pytest.raises(NasError, match="groups is 0: must be a whole number from 1 to 65536"):
        nas.parse("INPUT(4, 8, 8) -> GN(0) -> FC")


@pytest.mark.parametrize("pattern", [OWN, PLAIN])
def test_the_footprint_holds_what_torch_counts(pattern: str) -> None:
    assert_predicted(nas.parse(pattern), bf16=False)


def test_weights_come_from_the_seed_alone() -> None:
    architecture = nas.parse("INPUT(1, 4, 4) -> BILINEAR(3) -> FC(2)")
    torch.manual_seed(7)
    one = nas.build(architecture, seed=1).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(7)
    same, other = (nas.build(architecture, seed=seed).state_dict() for seed in (1, 2))
    assert torch.equal(drawn, torch.rand(1))  # torch's own generator was left alone
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_a_plug_ins_exported_source_stands_alone_or_is_refused() -> None:
    architecture = nas.parse(PLAIN)
    names: dict[str, Any] = {}
    exec(compile(python_source(architecture), "exported.py", "exec"), names)
    ours, theirs = nas.build(architecture, seed=1).eval(), names["network"]().eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-6)
    with pytest.raises(NasError, match=r"Squared is no layer of torch\.nn: plain PyTorch source"):
        python_source(nas.parse(OWN))


def test_a_plug_ins_layers_are_drawn() -> None:
    drawing = nas.parse(OWN).svg()
    for told in ("GN 4", "shuffle", "softplus"):
        assert f">{told}" in drawing


def test_a_plug_ins_activation_is_scored_by_naswot() -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    module = nas.build(nas.parse("INPUT(3, 16, 16) -> CONV(8) -> SOFTPLUS -> GAP -> FC(5)"), seed=0)
    assert naswot(module, x, torch.zeros(4)) > 0


def test_a_search_trains_a_plug_ins_layers(plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "name: my\n"
        "pattern: INPUT -> CONV(8) -> GN -> SQUARE -> SOFTPLUS -> POOL -> BILINEAR(8) -> FC\n"
        "where: {GN.groups: {choice: [2, 4]}}\n"
    )

    def cli(*told: str) -> str:
        command = [sys.executable, "-m", "nas.cli", *told]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    cli("search", "--space", "my.yaml", "--plugin", str(plugin), "--workers", "0",
        "--trials", "2", "--epochs", "1", "--sampler", "random")  # fmt: skip
    rows = json.loads(cli("trials", "ls", "-f", "json"))
    assert {row["state"] for row in rows} == {"finished"}
    assert {"GN(groups=2)" in row["pattern"] for row in rows} == {True, False}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            "class Mine(Leaf):\n"
            "    def cost(self, x): return Cost(x, 0, 0)\n"
            "    def module(self, x, fresh): ...\n",
            "line 2: TypeError: the layer Mine has no keeps",
        ),
        ("class Mine(Leaf): ...\n", "the layer Mine has no cost and no module and no keeps"),
        (
            "class Mine(Node):\n    def cost(self, x): return Cost(x, 0, 0)\n",
            "Mine: a layer is a subclass of Leaf",
        ),
    ],
)
def test_a_layer_that_leaves_something_out_is_refused(
    lines: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from nas.layers import Cost, Leaf, Node\n{lines}")
    with pytest.raises(NasError) as caught:
        plugins.load(path)
    assert told in str(caught.value)


def test_a_layer_that_answers_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS, "MINE", lambda: None)
    with pytest.raises(NasError, match="MINE at column 10: it makes None: must be a layer"):
        nas.parse("INPUT -> MINE -> FC")
    square = LAYERS["SQUARE"]
    architecture = nas.parse("INPUT -> SQUARE -> GAP -> SQUARE -> FC")
    monkeypatch.setattr(square, "keeps", lambda self, x: None)
    with pytest.raises(NasError, match=r"^Square\(\) keeps None: must be Kept"):
        footprint.kept(architecture)
    monkeypatch.setattr(square, "cost", lambda self, x: None)
    with pytest.raises(NasError, match="SQUARE at column 19: its cost is None: must be Cost"):
        nas.parse("INPUT(1, 9, 9) -> SQUARE -> FC")


WRONG = """
from dataclasses import dataclass
from nas.layers import LAYERS, Cost, Kept, Leaf, Width
from torch import nn

@dataclass(frozen=True, slots=True)
class Wrong(Leaf):
    width: Width
    def cost(self, x): return Cost((self.width, *x[1:]), 7, 7)
    def module(self, x, fresh): return nn.Identity() if self.width < 9 else nn.Linear(3, 3)
    def keeps(self, x): return Kept(input=True)

LAYERS["WRONG"] = Wrong
"""


def test_a_layer_whose_module_is_not_what_its_cost_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    plugins.load(tmp_path / "wrong.py")
    for width, told in (
        (8, r"of 1x8x8 its module makes 1x8x8 with 0 parameters, and by its cost it is 8x8x8 with"),
        (9, "its module fails on 1x8x8: RuntimeError: "),
    ):
        with pytest.raises(NasError, match=told):
            nas.build(nas.parse(f"INPUT -> WRONG({width}) -> GAP -> FC"))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            "def mine(x: Shape, *, width: Width) -> Node:\n    return 1 / 0\nBLOCKS['MINE'] = mine",
            r"MINE\(8\) at column 10: its Python, mine, fails: ZeroDivisionError: division by zero",
        ),
        ("BLOCKS['MINE'] = 3", "MINE.* at column 10: its Python, 3, fails: TypeError"),
        (
            "def mine(x: Shape, *, width: 'Nope') -> Node: ...\nBLOCKS['MINE'] = mine",
            "its Python, mine, fails: NameError: name 'Nope'",
        ),
        ("BLOCKS[3] = None", "unknown layer or block MINE.*known: 3, "),
        ("raise SystemExit(3)", r"plug-in .*mine\.py, line 3: SystemExit: 3"),
    ],
)
def test_a_plug_in_that_fails_is_named_in_one_sentence(
    lines: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"from nas.blocks import BLOCKS\nfrom nas.layers import Node, Shape, Width\n{lines}\n"
    )
    for name in ("MINE", 3):
        monkeypatch.setitem(BLOCKS, name, None)  # undone in the end
        monkeypatch.delitem(BLOCKS, name)
    with pytest.raises(NasError, match=told):  # noqa: PT012
        plugins.load(path)
        nas.parse("INPUT -> MINE(8) -> GAP -> FC")
