"""Pictures of images: their texts can be read, and their parts stand apart."""

from __future__ import annotations

import functools
import io
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import resvg_py
from folders import folder, ref
from fontTools.ttLib import TTFont
from PIL import Image

from nas.data import Images, findings
from nas.report import evaluations, fonts, front, images
from nas.training.evaluation import Evaluation

OTHERS = fonts.OTHERS
# Equal as boxes, as question marks, and without their accents.
ALIKE = ("Äpfel für Óscar", "Âpfel fùr Ôscar")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fonts, "OTHERS", ())  # whatever this machine has
    fonts.files.cache_clear()
    yield
    fonts.files.cache_clear()
    fonts.file.cache_clear()
    fonts._has.cache_clear()


def evaluated(names: tuple[str, ...], wrong: int, count: int = 60, side: int = 16) -> Evaluation:
    """The first ``wrong`` of ``count`` black images are taken for the next class."""
    labels = np.arange(count) % len(names)
    taken = np.where(np.arange(count) < wrong, (labels + 1) % len(names), labels)
    probabilities = np.full((count, len(names)), 0.1 / len(names), np.float32)
    probabilities[np.arange(count), taken] += 0.9
    pixels = np.zeros((count, 3, side, side), np.uint8)
    return Evaluation(names, "test", labels, probabilities, (Images.of(pixels, labels),))


def drawn(png: bytes) -> npt.NDArray[np.int_]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def same(a: bytes, b: bytes) -> bool:
    return np.array_equal(drawn(a), drawn(b))


# --- the font ------------------------------------------------------------------------------------


def test_a_text_keeps_what_the_font_has() -> None:
    file = fonts.file()
    assert file is not None
    has = TTFont(file).getBestCmap()
    for code in (*range(32, 127), *range(160, 0x2200, 7), *range(0x3040, 0x9FFF, 999), 0x1F600):
        if chr(code).isprintable():
            whole = unicodedata.normalize("NFC", chr(code))
            expected = "".join(c if ord(c) in has else "?" for c in whole)
            assert fonts.showable(chr(code)) == expected, hex(code)


def test_a_letter_and_its_accent_apart_become_one() -> None:
    assert fonts.showable("Gru\N{COMBINING DIAERESIS}n") == "Grün"


def test_on_a_machine_without_a_font_pillows_own_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    assert fonts.showable("Grün") == "Grün"  # by the system's
    fonts.file.cache_clear()
    fonts._has.cache_clear()
    monkeypatch.setattr(fonts, "FILES", ("of no font.ttf",))
    assert fonts.file() is None
    assert fonts.showable("Grün, 3 images") == "Gr?n, 3 images"
    assert same(*(evaluations.mistakes_png(evaluated((name, "b"), 3)) for name in ALIKE))


def test_a_front_needs_no_font_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = functools.partial(resvg_py.svg_to_bytes, skip_system_fonts=True)
    monkeypatch.setattr(resvg_py, "svg_to_bytes", alone)
    size = 'xmlns="http://www.w3.org/2000/svg" width="90" height="20"'
    png = front.png(f'<svg {size}><text y="15" font-family="sans-serif">front</text></svg>')
    assert np.asarray(Image.open(io.BytesIO(png)))[..., 3].any()


# --- names on pictures ---------------------------------------------------------------------------


def test_mistakes_and_confusions_tell_accents_apart() -> None:
    for picture in (evaluations.mistakes_png, evaluations.confusion_png):
        assert not same(*(picture(evaluated((name, "b"), 9)) for name in ALIKE))


def test_letters_that_the_font_lacks_are_question_marks_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in (evaluations.mistakes_png, evaluations.confusion_png):
            assert same(*(picture(evaluated((name, "b"), 9)) for name in ("日本", "??")))


def test_another_font_of_the_system_draws_what_the_usual_one_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A font by the name of one that has Chinese characters, with two of them."""
    usual = fonts.file()
    assert usual
    fonts.tell_lacking(["日本", "é", "ก日"])
    assert "no font here has" in (said := capsys.readouterr().err)
    assert all(said.count(letter) == 1 for letter in "日本ก")
    made = TTFont(usual)
    for table in made["cmap"].tables:
        table.cmap |= {ord("日"): "A", ord("本"): "B"}
    (tmp_path / "fonts").mkdir()
    name = "NotoSansCJK-Regular.ttc"
    assert name in OTHERS
    made.save(tmp_path / "fonts" / name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(fonts, "OTHERS", (name,))
    fonts.files.cache_clear()
    assert fonts.showable("日本 ก é") == "日本 ? é"
    assert fonts.file_for("é") == usual
    for picture in (evaluations.mistakes_png, evaluations.confusion_png):
        assert same(*(picture(evaluated((name, "b"), 9)) for name in ("日本", "AB")))
    fonts.tell_lacking(["日本"])
    assert capsys.readouterr().err == ""


def test_a_dollar_begins_no_formula() -> None:
    told = [evaluations.confusion_png(evaluated((name, "b"), 9)) for name in ("$x$", r"\$x\$")]
    assert not same(*told)


def test_the_sheet_of_a_folder_tells_accents_apart(tmp_path: Path) -> None:
    for number, name in enumerate(ALIKE):
        root = ref(folder(tmp_path / f"{number}", 10, (name, "b")))
        images.draw(root, findings.inspect(root), tmp_path / f"{number}.png")
    assert not same(*((tmp_path / f"{number}.png").read_bytes() for number in (0, 1)))


# --- the sheet of mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [1, 2, 3, 7, 40])
def test_the_sheet_is_as_wide_as_its_mistakes_and_captions_stand_apart(wrong: int) -> None:
    names = ("Wanderfalken im Gebirge", "iiiiiiii", "MMMMMMMMMMMMMMMM")
    sheet = drawn(evaluations.mistakes_png(evaluated(names, wrong)))
    ink = (sheet < 250).any(2)
    starts = np.flatnonzero(np.diff(ink[100].astype(int), prepend=0) == 1)  # of the upper images
    assert len(starts) == min(wrong, 6)
    assert sheet.shape[1] - starts[-1] <= 176  # no empty column
    for left in starts[1:]:
        assert not ink[40:, left - 12 : left].any()


def test_of_no_mistakes_a_sentence_remains() -> None:
    sheet = drawn(evaluations.mistakes_png(evaluated(("a", "b"), 0)))
    assert sheet.shape[0] < 60
    assert (sheet < 100).any()


# --- the sheet of a folder -----------------------------------------------------------------------


def test_a_caption_is_whole_over_narrow_images(tmp_path: Path) -> None:
    for end in ("x", "y"):
        narrow = folder(
            tmp_path / end, 5, (f"a class of long and narrow images {end}", "b"), width=8
        )
        images.draw(ref(narrow), findings.inspect(ref(narrow)), tmp_path / f"{end}.png")
    assert not same(*((tmp_path / f"{end}.png").read_bytes() for end in ("x", "y")))


def test_the_sheet_of_a_folder_is_as_wide_as_its_images(tmp_path: Path) -> None:
    few, many = (ref(folder(tmp_path / f"{n}", n, ("a", "b"))) for n in (5, 30))
    for name, of in (("few", few), ("many", many)):
        images.draw(of, findings.inspect(of), tmp_path / f"{name}.png")
    wide = {name: Image.open(tmp_path / f"{name}.png").width for name in ("few", "many")}
    assert wide["few"] < wide["many"] / 2
