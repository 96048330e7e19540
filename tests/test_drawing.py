"""The drawing of an architecture is correct and legible."""

from __future__ import annotations

import itertools
import math
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import browsing, needs_browser
from patterns import SPACES
from PIL import Image

import nas
from nas.cli import main
from nas.language.drawing.canvas import breadth
from nas.language.drawing.columns import Column, Item, columns, flat
from nas.language.expression import Leaf
from nas.spaces import zoo

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"
NESTED = (
    "INPUT(3, 64, 48) -> [CONV(8) -> BN -> RELU -> [RESIDUAL(8, se=4) -> DENSE(4)]*2]*3 -> AUX -> "
    "POOL -> [INCEPTION(width=16) -> POOL]*2 -> FLATTEN -> BN -> FC(10)"
)
LONG = " -> ".join(["INPUT(1, 9, 9)", *(f"CONV({n}) -> TANH" for n in range(1, 60)), "FC(3)"])


def networks() -> Iterator[tuple[str, nas.Architecture]]:
    for name in zoo.names():
        yield name, nas.load_space(name).sample(0)
    for name, side in itertools.product(SPACES, (32, 224)):
        for seed in range(2):
            yield f"{name}-{side}-{seed}", nas.load_space(name, (3, side, side), 10).sample(seed)
    for pattern in (NESTED, LONG, "INPUT(1, 1, 1) -> FC(1)", "INPUT(65536, 1, 9) -> GAP -> FC(2)"):
        yield pattern[:20], nas.parse(pattern)


NETWORKS = dict(networks())
each = pytest.mark.parametrize("name", NETWORKS)
Box = tuple[float, float, float, float]


@cache
def drawn(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(NETWORKS[name].svg(name))


def texts(root: ElementTree.Element) -> list[tuple[str, Box]]:
    """Every text with the box that it takes at most."""
    found = []
    for text in root.iter(f"{SVG}text"):
        told, size = text.text or "", float(text.attrib["font-size"])
        wide = breadth(told, size, text.attrib.get("font-weight") == "bold")
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        left = x if text.attrib["text-anchor"] == "start" else x - wide / 2
        found.append((told, (left, y - 0.75 * size, left + wide, y + 0.2 * size)))
    return found


def apart(a: Box, b: Box) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@each
def test_no_two_labels_overlap_and_all_are_on_the_page(name: str) -> None:
    root = drawn(name)
    found = texts(root)
    for (one, a), (other, b) in itertools.combinations(found, 2):
        assert apart(a, b), f"{one!r} over {other!r}"
    wide, high = float(root.attrib["width"]), float(root.attrib["height"])
    for told, (left, upper, right, lower) in found:
        assert left >= 0, told
        assert right <= wide, told
        assert upper >= 0, told
        assert lower <= high, told


@each
def test_no_two_boxes_overlap(name: str) -> None:
    rectangles = list(drawn(name).iter(f"{SVG}rect"))[1:]  # the page itself is the first
    boxes: list[Box] = []
    for box in rectangles:
        x, y, wide, high = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        boxes.append((x, y, x + wide, y + high))
    assert all(apart(a, b) for a, b in itertools.combinations(boxes, 2))


@each
def test_every_element_and_all_params_and_macs_are_there(name: str) -> None:
    architecture = NETWORKS[name]
    items = columns(architecture.steps)
    assert sum(column.params for column in flat(items)) == architecture.params
    assert sum(column.macs for column in flat(items)) == architecture.macs
    told = sum(len(column.lines) for column in unfolded(items) if not column.blocks)
    blocks = [step.node for step in architecture.steps if not isinstance(step.node, Leaf)]
    drawn = Counter(block for column in flat(items) for block, _ in column.blocks)
    assert drawn == Counter(blocks)
    assert told >= len(architecture.steps) - len(blocks)


def unfolded(items: tuple[Item, ...]) -> list[Column]:
    """Each repetition as often as it says."""
    found: list[Column] = []
    for item in items:
        found += [item] if isinstance(item, Column) else unfolded(item.items) * item.count
    return found


@each
def test_a_drawing_loads_nothing_from_outside(name: str) -> None:
    """Without fonts, scripts, pictures or links; nothing is fetched but the name of the format."""
    text = NETWORKS[name].svg("<script>alert(1)</script> & Co.")
    root = ElementTree.fromstring(text)
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "title", "desc", "style", "rect", "circle", "path", "polygon", "text"}
    assert text.count("http") == 1
    assert "url(" not in text
    assert "@font-face" not in text
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == "<script>alert(1)</script> & Co."
    about = root.find(f"{SVG}desc")
    assert about is not None
    assert nas.parse(about.text or "") == NETWORKS[name]


def test_the_same_network_gives_the_same_file() -> None:
    code = "import nas; print(nas.load_space('mixed', (3, 32, 32), 10).sample(19).svg('a'), end='')"
    files = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert files == {nas.load_space("mixed", (3, 32, 32), 10).sample(19).svg("a")}


def slabs(name: str) -> list[tuple[str, float, float]]:
    """The columns of the networks's map from left to right: the ink, width and height."""
    root = drawn(name)
    middle = next(
        float(box.attrib["y"]) + float(box.attrib["height"]) / 2
        for box in root.iter(f"{SVG}rect")
        if box.attrib["class"].startswith("nas-input")
    )
    found = []
    for box in root.iter(f"{SVG}rect"):
        if "x" not in box.attrib:
            continue
        y, high = float(box.attrib["y"]), float(box.attrib["height"])
        if math.isclose(y + high / 2, middle, abs_tol=0.11):
            ink = box.attrib["class"].split()[0].removeprefix("nas-")
            found.append((ink, float(box.attrib["width"]), high))
    return found


def test_columns_are_as_high_as_the_map_and_as_wide_as_the_channels() -> None:
    """ResNet-18 in a row: conv, pool, and two residual columns a stage but one in the first."""
    found = slabs("resnet18")
    inks = ["input", "convolution", "resampling", *["sum"] * 7, "resampling", "features"]
    assert [ink for ink, _, _ in found] == inks
    by_map = {side: high for (_, _, high), side in zip(found, (224, 112, 56, 56, 28, 28, 14, 14, 7,
                                                               7, 1, 1), strict=True)}  # fmt: skip
    sides = (224, 112, 56, 28, 14, 7)
    steps = [by_map[side] - by_map[side // 2] for side in sides[:-1]]
    assert max(steps) - min(steps) <= 0.21
    assert min(steps) > 10
    residual = [wide for ink, wide, _ in found if ink == "sum"]  # 64, 2 of 128, of 256, of 512
    doublings = [residual[i + 1] - residual[i] for i in (0, 2, 4)]
    assert max(doublings) - min(doublings) <= 0.21
    assert min(doublings) > 3


def words(name: str) -> list[str]:
    return [told for told, _ in texts(drawn(name))]


def dashed(name: str, kind: str) -> int:
    return sum("stroke-dasharray" in element.attrib for element in drawn(name).iter(f"{SVG}{kind}"))


def test_repeats_are_drawn_as_repeats() -> None:
    assert [told for told in words("densenet121") if told.startswith("×")] == [
        "×6", "×12", "×24", "×16"
    ]  # fmt: skip
    assert [told for told in words("vgg16") if told.startswith("×")] == [
        "×2", "×2", "×3", "×3", "×3", "×2"
    ]  # fmt: skip
    assert "×3" in words(NESTED[:20])


def test_a_repeat_whose_first_has_another_shortcut_says_so() -> None:
    """He et al. 2015, table 1 and section 3.3: in ResNet-50 the first unit of each of its four
    stages projects, so three, four, six and three units are one and two, three, five, two."""
    assert dashed("resnet50", "path") == 4
    assert [told for told in words("resnet50") if told.startswith("×")] == ["×2", "×3", "×5", "×2"]
    assert dashed("resnet18", "path") == 3


def test_branches_and_their_widths_are_those_of_the_paper() -> None:
    """Szegedy et al. 2014, table 1: of 9 inceptions the least and the greatest of each column."""
    found = words("googlenet")
    for told in ("conv 1×1, 64–384", "conv 1×1, 96–192", "conv 3×3, 128–384", "conv 1×1, 16–48",
                 "conv 1×1, 32–128", "concatenation"):  # fmt: skip
        assert told in found
    assert found.count("AUX") == 3  # twice in the network, and once over its inside
    assert dashed("googlenet", "rect") == 2


def test_the_costs_of_a_stage_are_its_layers() -> None:
    """LeNet-5 by hand: 6 kernels of 5x5 with a bias on 28x28; 16 of 6x5x5 on 10x10."""
    found = words("lenet5")
    for told in ("156", "118k", "2.42k", "240k", "59.1k", "58.9k"):
        assert told in found


@needs_browser
def test_a_browser_needs_no_more_room_for_the_text(tmp_path: Path) -> None:
    with browsing(tmp_path / "profile") as browser:
        for name in ("googlenet", "mobilenet_v2", "resnext50_32x4d", NESTED[:20]):
            (tmp_path / "net.svg").write_text(NETWORKS[name].svg(name))
            browser.get(f"file://{tmp_path}/net.svg")
            found: list[list[object]] = browser.execute_script(
                "return [...document.querySelectorAll('text')].map("
                "t => [t.textContent, t.getBBox().width])"
            )
            room = {told: right - left for told, (left, _, right, _) in texts(drawn(name))}
            for told, wide in found:
                assert isinstance(wide, float | int)
                assert wide <= room[str(told)], told


def test_a_notebook_draws_it_and_a_terminal_has_one_line() -> None:
    architecture = nas.parse("INPUT(3, 8, 8) -> CONV(4) -> GAP -> FC(2)")
    assert architecture._repr_svg_() == architecture.svg()
    assert "\n" not in repr(architecture)
    assert eval(repr(architecture), {"nas": nas}) == architecture


def test_the_pages_of_docs_are_what_the_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "drawings.py"))
    folder = ROOT / "docs" / "drawings"
    made: dict[str, str] = script["drawings"]()
    assert {path.name for path in folder.iterdir()} == set(made)
    for name, text in made.items():
        assert (folder / name).read_text() == text, "run: python benchmarks/drawings.py"


# --- the command line ----------------------------------------------------------------------------


Command = Callable[..., str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``nas`` in an empty folder; what it prints, or where it fails, what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*told: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["nas", *told])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == status, shown.err
        return shown.err if status else shown.out

    return run


def test_show_writes_the_drawing(command: Command, tmp_path: Path) -> None:
    assert command("show", "resnet18", "-o", "net.svg") == ""
    assert (tmp_path / "net.svg").read_text() == NETWORKS["resnet18"].svg("resnet18")
    command("show", NESTED, "-o", "net.svg")
    assert (tmp_path / "net.svg").read_text() == NETWORKS[NESTED[:20]].svg()


def test_show_writes_the_drawing_as_png(command: Command, tmp_path: Path) -> None:
    assert command("show", "resnet18", "-o", "net.png") == ""
    root = ElementTree.fromstring(NETWORKS["resnet18"].svg("resnet18"))
    picture = Image.open(tmp_path / "net.png").convert("RGB")
    size = [math.ceil(2 * float(root.attrib[side])) for side in ("width", "height")]
    assert list(picture.size) == size
    fills = {box.attrib["fill"] for box in root.iter(f"{SVG}rect") if "#" in box.get("fill", "")}
    colours = {"#{:02x}{:02x}{:02x}".format(*c) for _, c in picture.getcolors(1 << 20) or []}
    assert fills <= colours


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (("resnet18", "-o", "net.pdf"), r"net\.pdf: must end in \.svg or \.png"),
        (("mixed", "-o", "net.svg"), "mixed is a search space: only one of its networks can be"),
        (("lenet5", "--size", "3", "-o", "net.svg"), "does not fit a map of 1x1"),
        (("INPUT(3, 9, 9) -> FC", "--size", "8"), r"--size 8: the pattern begins with INPUT\(3"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    told: tuple[str, ...], why: str, command: Command, tmp_path: Path
) -> None:
    error = command("show", *told, status=2)
    assert re.search(why, error)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "shape"),
    [
        ("mixed", "1x32x32, 10 classes"),
        ("resnet18", "3x32x32"),
        ("INPUT -> CONV(8, 11, pad=0) -> FC", "1x32x32"),
        ("INPUT(3, 32, 32) -> FC(4)", "3x32x32"),
    ],
)
def test_show_draws_the_network_for_images_of_the_given_size(
    what: str, shape: str, command: Command
) -> None:
    assert shape in command("show", what, "--size", "32")
