"""Folders of images as people have them: each decodes to the picture that a viewer shows."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import anew, colour, folder, grey, ref
from PIL import Image, ImageCms

from nas.data import datasets as data
from nas.data import kinds, picture
from nas.data.findings import examine, lines
from nas.errors import DataError

TURNED = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
GROUND = 128


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


def seen(image: Image.Image, path: Path, channels: int = 1, **save: Any) -> np.ndarray:
    """The image after a file: channels last, without the channel where it is grey."""
    image.save(path, **save)
    told = picture.header(path.read_bytes())
    assert told.grey == (channels == 1)
    pixels = picture.decode(path, (channels, told.height, told.width))
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


# --- the modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_by_the_types_range(ending: str, tmp_path: Path) -> None:
    expected = grey(1)
    wide = Image.fromarray(expected.astype(np.uint16) * 257)
    assert np.array_equal(seen(wide, tmp_path / f"x.{ending}"), expected)
    dark = Image.fromarray(expected.astype(np.uint16) * 16)  # of 12 bits: dark, not stretched
    assert np.array_equal(seen(dark, tmp_path / f"y.{ending}"), np.rint(expected * (16 / 257)))


def packed_12(values: np.ndarray) -> bytes:
    """A TIFF of 12 bits a pixel, two pixels in three bytes."""
    height, width = values.shape
    one, other = values[:, ::2], values[:, 1::2]
    rows = np.stack([one >> 4, (one & 15) << 4 | other >> 8, other & 255], -1)
    data = rows.astype(np.uint8).tobytes()
    # Width, height, bits a sample, no compression, black is 0, where, samples, rows, bytes.
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height,
            279: len(data)}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    told = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + told


def test_12_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 32 * 32).reshape(32, 32).astype(np.int64)
    (tmp_path / "x.tif").write_bytes(packed_12(values))
    pixels = picture.decode(tmp_path / "x.tif", (1, 32, 32))[0]
    assert np.array_equal(pixels, np.rint(values * (255 / 4095)))


def test_signed_16_bits_and_a_pgm_of_12_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    expected = grey(1)
    file = tmp_path / "x.pgm"
    file.write_bytes(b"P5 32 32 4095\n" + (expected.astype(np.uint16) * 16).astype(">u2").tobytes())
    pixels = picture.decode(file, (1, 32, 32))[0]
    assert np.abs(pixels - expected * (16 * 255 / 4095)).max() <= 1
    signed = write_tiff(tmp_path / "x.tif", expected.astype("<i2") * 100, sample_format=2)
    pixels = picture.decode(signed, (1, 32, 32))[0]
    assert np.abs(pixels - (expected * 100.0 + 32768) * 255 / 65535).max() <= 1


def write_tiff(path: Path, values: np.ndarray, sample_format: int) -> Path:
    """A TIFF of one strip, by hand: Pillow writes no signed ones."""
    height, width = values.shape
    size, bits = values.nbytes, 8 * values.itemsize
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, height), (279, size), (339, sample_format)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = values.tobytes()
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data
                     + struct.pack("<H", len(tags)) + entries + bytes(4))  # fmt: skip
    return path


@pytest.mark.parametrize("scale", [1 / 255, 1000.0, 1e-9])
def test_floats_are_scaled_by_their_own_range(scale: float, tmp_path: Path) -> None:
    values = grey(1).astype(np.float32)
    expected = (values - values.min()) * 255 / (values.max() - values.min())
    pixels = seen(Image.fromarray(values * np.float32(scale) - 3), tmp_path / "x.tif")
    assert np.abs(pixels - expected).max() <= (1 if scale > 1e-3 else 256)
    assert np.abs(seen(Image.fromarray(values.astype(np.int32) * 7000), tmp_path / "y.tif")
                  - expected).max() <= 1  # fmt: skip


def test_floats_without_a_number_and_blank_ones_are_read(tmp_path: Path) -> None:
    values = grey(1).astype(np.float32)
    values[0, 0], values[1, 1] = np.nan, np.inf
    pixels = seen(Image.fromarray(values), tmp_path / "x.tif")
    assert (pixels[0, 0], pixels[1, 1]) == (0, 255)
    assert pixels[0, 1:].mean() > 150
    flat = np.full((8, 8), 3.5, np.float32)
    assert (seen(Image.fromarray(flat), tmp_path / "y.tif") == 0).all()


def test_what_is_transparent_shows_one_ground(tmp_path: Path) -> None:
    alpha = grey(1)
    black = np.zeros((32, 32), np.uint8)
    expected = GROUND * (255 - alpha.astype(float)) / 255
    rgba = Image.fromarray(np.dstack([black, black, black, alpha]))
    assert np.abs(seen(rgba, tmp_path / "a.png", 3) - expected[..., None]).max() <= 1
    la = Image.merge("LA", [Image.fromarray(black), Image.fromarray(alpha)])
    assert np.abs(seen(la, tmp_path / "b.png") - expected).max() <= 1
    white = Image.merge("LA", [Image.fromarray(black + 255), Image.fromarray(alpha)])
    drawn = seen(white, tmp_path / "c.png")
    assert np.abs(drawn - (expected + alpha)).max() <= 1
    assert drawn.std() > 20  # a white drawing is seen too


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_a_transparent_colour_shows_the_ground(mode: str, tmp_path: Path) -> None:
    values = grey(1)
    values[:4] = 0
    if mode == "I;16":
        image, key, expected = Image.fromarray(values.astype(np.uint16) * 257), 0, values.copy()
    else:
        image, expected = Image.fromarray(values).convert(mode), values.copy()
        key = (0, 0, 0) if mode == "RGB" else 0
    expected[expected == 0] = GROUND
    channels = 1 if mode in ("L", "I;16") else 3
    pixels = seen(image, tmp_path / "x.png", channels, transparency=key)
    assert np.array_equal(pixels, expected if channels == 1 else np.dstack([expected] * 3))


def lab(image: Image.Image) -> Image.Image:
    srgb, space = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    turned = ImageCms.profileToProfile(image, srgb, space, outputMode="LAB")
    assert turned
    return turned


@pytest.mark.parametrize(
    ("name", "turn", "tolerance"),
    [
        ("x.tif", lambda image: image.convert("CMYK"), 1),
        ("x.jpg", lambda image: image.convert("CMYK"), 60),
        ("x.tif", lambda image: image.convert("YCbCr"), 60),
        ("x.tif", lab, 40),
        ("x.bmp", lambda image: image, 0),
        ("x.ppm", lambda image: image, 0),
        ("x.tga", lambda image: image, 0),
        ("x.jp2", lambda image: image, 0),
        ("x.qoi", lambda image: image, 0),
    ],
)
def test_every_colour_space_is_the_picture(
    name: str, turn: Callable[[Image.Image], Image.Image], tolerance: int, tmp_path: Path
) -> None:
    if kinds.unread(name):
        pytest.skip("this Pillow does not read it")
    smooth = np.dstack([np.linspace(0, 255, 32).astype(np.uint8)[:, None].repeat(32, 1)] * 3)
    smooth[..., 1] = smooth[..., 1].T
    save = {"irreversible": False} if name == "x.jp2" else {}
    pixels = seen(turn(Image.fromarray(smooth)), tmp_path / name, 3, **save).astype(int)
    assert np.abs(pixels - smooth).max() <= tolerance
    assert np.abs(pixels - smooth).mean() <= max(tolerance / 8, 0)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    drawn = grey(1) > 128
    assert np.array_equal(seen(Image.fromarray(drawn), tmp_path / "x.png") > 0, drawn)
    assert {*np.unique(seen(Image.fromarray(drawn), tmp_path / "y.tif"))} == {0, 255}


@pytest.mark.parametrize("tag", TURNED)
@pytest.mark.parametrize(
    ("ending", "tolerance"), [("jpg", 90), ("mpo", 90), ("png", 0), ("webp", 90), ("tif", 0)]
)
def test_a_photograph_is_upright(ending: str, tolerance: int, tag: int, tmp_path: Path) -> None:
    upright = colour(1, 0, 64, 48)
    image = Image.fromarray(upright).transpose(TURNED[tag])
    told = Image.Exif()
    told[0x0112] = tag
    file = tmp_path / ("x.jpg" if ending == "mpo" else f"x.{ending}")
    pages = {"format": "MPO", "save_all": True, "append_images": [image]} if ending == "mpo" else {}
    pixels = seen(image, file, 3, exif=told, **pages).astype(int)
    assert pixels.shape == (64, 48, 3)
    assert np.abs(pixels - upright).max() <= tolerance
    assert pixels[:8].mean() > pixels[-8:].mean() + 100


def test_a_tag_that_means_no_rotation_turns_nothing(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[picture.ORIENTATION] = 9  # 1 to 8 are defined
    Image.fromarray(colour(0, height=20, width=40)).save(tmp_path / "a.png", exif=tags)
    told = picture.header((tmp_path / "a.png").read_bytes())
    assert (told.height, told.width) == (20, 40)


def test_the_first_frame_is_taken_and_counted(tmp_path: Path) -> None:
    for name, label in (("a", 0), ("b", 1)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for n in range(5):
            frames = [Image.fromarray(grey(10 * n + k, label)) for k in range(3)]
            frames[0].save(tmp_path / "d" / name / f"{n}.gif", save_all=True,
                           append_images=frames[1:])  # fmt: skip
    images = data.read(ref(tmp_path / "d"), "train")
    assert np.array_equal(images.pixels[2, 0], grey(20))
    assert "10 images have several frames: the first is taken" in examine(ref(tmp_path / "d")).notes


def test_half_a_class_under_another_ending_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 10, ending="jpg")
    for n, ending in enumerate(["jfif", "JPE", "Jpeg", "mpo", "jif"]):
        (root / "b" / f"{n:04}.jpg").rename(root / "b" / f"{n:04}.{ending}")
    assert examine(ref(root)).classes == {"a": 10, "b": 10}


def test_what_is_not_read_is_counted_by_its_ending(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    for n in range(4):
        (root / "a" / f"{n}.svg").write_text("<svg/>")
    (root / "b" / "labels.txt").write_text("x")
    (root / "README").write_text("x")
    shutil.copy(root / "a" / "0000.png", root / "beside.png")
    os.mkfifo(root / "b" / "pipe.png")
    found = examine(ref(root))
    assert {reason: count for reason, (count, _) in found.skipped.items()} == {
        ".svg: no image": 4,
        ".txt: no image": 1,
        "no ending: no image": 1,
        "images beside the class folders": 1,
        "no regular file": 1,
    }
    assert len(found.skipped[".svg: no image"][1]) == 3
    if "HEIF" not in kinds.readable():
        (root / "a" / "x.HEIC").write_bytes(b"x")
        told = kinds.unread("x.HEIC")
        assert told == ".heic: Pillow cannot read it (install pillow-heif)"


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "it is empty"),
        ("empty.png", b"", "it is empty"),
        ("text.png", b"none", "it is no image"),
        ("photo.heic", HEIC, "Pillow cannot read it (install pillow-heif)"),
        ("photo.jpg", HEIC, "Pillow cannot read it (install pillow-heif)"),
        (
            "huge.png",
            14_000,
            "it has 196,000,000 pixels: must be 178,956,970 at most; ",
        ),
        ("large.png", 20_000, "it has 400,000,000 pixels: must be 178,956,970 at most; "),
    ],
)
def test_a_look_and_a_decoding_say_the_same_of_what_they_cannot_read(
    name: str, content: bytes | int, reason: str, tmp_path: Path
) -> None:
    if content == HEIC and "HEIF" in kinds.readable():
        pytest.skip("it is read here")
    file = tmp_path / name
    if isinstance(content, int):
        Image.new("1", (content, content)).save(file)
    else:
        file.write_bytes(content)
    with pytest.raises(DataError) as looked:
        picture.header(file.read_bytes())
    with pytest.raises(DataError) as decoded:
        picture.decode(file, (3, 8, 8))
    assert str(looked.value).startswith(reason)
    assert str(decoded.value) == f"{file} is not a readable image: {looked.value}"


# --- droppings -----------------------------------------------------------------------------------


def test_droppings_are_ignored_at_every_depth(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ending="jpg")
    identity = data.identity(ref(root))
    one = (root / "a" / "0000.jpg").read_bytes()
    deep = root / "a" / "deeper"
    deep.mkdir()
    shutil.move(root / "a" / "0009.jpg", deep / "0009.jpg")  # stays the last
    droppings = [root / ".DS_Store", root / "Thumbs.db", root / "__MACOSX" / "a" / "x.jpg"]
    for place in (root / "a", root / "b", deep):
        droppings += [place / ".DS_Store", place / "._0000.jpg", place / "desktop.ini",
                      place / "THUMBS.DB", place / "~$0000.jpg",
                      place / ".ipynb_checkpoints" / "0000-checkpoint.jpg",
                      place / "@eaDir" / "0000.jpg" / "SYNOPHOTO_THUMB_M.jpg"]  # fmt: skip
    for path in droppings:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one)
    assert data.identity(ref(root)) == identity
    found = examine(ref(root))
    assert found.classes == {"a": 10, "b": 10}
    assert found.skipped["droppings"][0] == len(droppings)


# --- parts ---------------------------------------------------------------------------------------

PARTS: dict[tuple[str, ...], dict[str, int]] = {
    ("train", "valid", "test"): {"train": 20, "validation": 20, "test": 20},
    ("train", "validation"): {"train": 16, "validation": 20, "test": 4},
    ("Train", "Val", "Test"): {"train": 20, "validation": 20, "test": 20},
    ("TRAINING", "VALIDATION", "TESTING"): {"train": 20, "validation": 20, "test": 20},
    ("Training", "Testing"): {"train": 16, "validation": 4, "test": 20},
    ("train", "dev"): {"train": 16, "validation": 20, "test": 4},
    ("train", "eval"): {"train": 16, "validation": 4, "test": 20},
    ("train", "eval", "test"): {"train": 20, "validation": 20, "test": 20},
    ("seg_train", "seg_test"): {"train": 16, "validation": 4, "test": 20},
    ("train_images", "test-set"): {"train": 16, "validation": 4, "test": 20},
    ("train", "val", "valid"): {"train": 16, "validation": 20, "test": 4},
    ("train", "training"): {"train": 12, "validation": 4, "test": 4},
    ("tr", "te"): {"train": 16, "validation": 4, "test": 20},
    ("train", "extra"): {"train": 12, "validation": 4, "test": 4},
}


@pytest.mark.parametrize("names", PARTS, ids="-".join)
def test_parts_go_by_their_usual_names_and_never_become_classes(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    for n, name in enumerate(names):
        folder(tmp_path / "d" / name, seed=100 * n)
    found = examine(ref(tmp_path / "d"))
    assert found.classes.keys() == {"a", "b"}
    assert found.parts == PARTS[names]
    unused = (
        {"valid", "training", "extra"} & set(names) if len(set(names) - {"test"}) > 1 else set()
    )
    for name in unused if names[1:] not in [("valid", "test")] else ():
        assert f"{name} is not used: 20 images" in found.notes
        assert found.skipped["in a folder not used"][0] == 20


@pytest.mark.parametrize("names", [("xtrain", "xtest"), ("fold1", "fold2"), ("Entrena", "Prueba")])
def test_classes_that_hold_the_same_folders_are_told_to_look_like_parts(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    for n, name in enumerate(names):
        folder(tmp_path / "d" / name, seed=100 * n)
    (note,) = examine(ref(tmp_path / "d")).notes
    assert re.search(rf"each class \({names[1]}, {names[0]}|{names[0]}, {names[1]}\)", note)
    assert "holds folders of the same names (a, b)" in note
    assert note.endswith("name the folders above them train, val and test")
    # Not where images lie beside them, nor where they differ.
    Image.fromarray(colour(999)).save(tmp_path / "d" / names[0] / "x.png")
    anew()
    assert not examine(ref(tmp_path / "d")).notes


@pytest.mark.parametrize("inner", ["images", "Data", "train"])
def test_the_classes_of_a_part_may_lie_one_deeper(inner: str, tmp_path: Path) -> None:
    folder(tmp_path / "d" / "train" / inner)
    folder(tmp_path / "d" / "val", seed=100)
    found = examine(ref(tmp_path / "d"))
    assert found.classes == {"a": 20, "b": 20}
    assert found.places["train"] == f"train/{inner}"


def test_an_archive_may_unpack_to_several_folders_in_each_other(tmp_path: Path) -> None:
    folder(tmp_path / "d" / "data" / "pets" / "images")
    found = examine(ref(tmp_path / "d"))
    assert found.classes == {"a": 10, "b": 10}
    assert found.places == {"train": "data/pets/images"}


def test_a_class_whose_name_is_no_text_is_told_before_a_training(tmp_path: Path) -> None:
    """A model could not be written. A file's name may be anything."""
    root = folder(tmp_path / "d", classes=("猫", "a\nb"))
    (root / "猫" / "0000.png").rename(root / "猫" / os.fsdecode(b"\xff\n.png"))
    assert examine(ref(root)).classes == {"a\nb": 10, "猫": 10}
    folder(root, classes=(os.fsdecode(b"caf\xe9"),), seed=500)
    anew()
    with pytest.raises(DataError, match=r"the class 'caf\\xe9' of .* is not UTF-8: rename it"):
        examine(ref(root))


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    (root / "c").symlink_to(tmp_path / "nowhere")
    assert examine(ref(root)).skipped["a link to nothing"][0] == 1


def test_a_test_folder_without_labels_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "d" / "train").parent
    for place in (root / "test", root / "Test_2" / "unknown"):
        place.mkdir(parents=True)
        for n in range(5):
            Image.fromarray(colour(500 + n)).save(place / f"{n}.png")
    found = examine(ref(root))
    assert found.classes == {"a": 10, "b": 10}
    assert found.held_out == ("validation", "test")
    assert found.skipped["unlabelled"][0] == 10
    assert any("test has no class folders: its 5 images" in note for note in found.notes)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("val", "test"), "holds test and val but no folder to train on"),
        (("Testing", "Validation"), "holds Testing and Validation but no folder to train on"),
    ],
)
def test_parts_without_one_to_train_on_are_refused(
    names: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    for name in names:
        folder(tmp_path / "d" / name)
    with pytest.raises(DataError, match=told):
        data.describe(ref(tmp_path / "d"))


def test_parts_that_are_flat_have_no_labels(tmp_path: Path) -> None:
    folder(tmp_path / "d", classes=("train", "test"))
    with pytest.raises(DataError, match=r"test and train in .* without class folders: no labels"):
        data.describe(ref(tmp_path / "d"))


@pytest.mark.parametrize(
    "classes",
    [("train", "tram"), ("de", "fr", "tr"), ("invalid", "valid"), ("dev board", "test tube")],
)
def test_a_class_may_be_called_like_a_part(classes: tuple[str, ...], tmp_path: Path) -> None:
    folder(tmp_path / "flat", classes=classes)
    assert data.describe(ref(tmp_path / "flat")).classes == classes
    if "train" not in classes:
        for name in classes:
            folder(tmp_path / "deep" / name, 3, ("x", "y"))
        assert data.describe(ref(tmp_path / "deep")).classes == classes


def test_a_folder_within_the_folder_is_looked_into(tmp_path: Path) -> None:
    folder(tmp_path / "d" / "archive" / "seg_train" / "seg_train")
    folder(tmp_path / "d" / "archive" / "seg_test" / "seg_test", seed=50)
    (tmp_path / "d" / ".DS_Store").write_bytes(b"x")
    found = examine(ref(tmp_path / "d"))
    assert found.classes == {"a": 20, "b": 20}
    assert found.parts["test"] == 20
    assert found.notes[0].startswith(f"read from {tmp_path}/d/archive")


def test_a_part_with_a_class_of_its_own_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "d" / "train", classes=("cat", "dog"))
    folder(tmp_path / "d" / "test", classes=("Cat", "Dog"))
    with pytest.raises(DataError, match=r"test/Cat is no class of .*did you mean cat"):
        data.describe(ref(tmp_path / "d"))


# --- links ---------------------------------------------------------------------------------------


def test_a_class_may_be_a_link_and_a_loop_is_told(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", classes=("x",))
    root = folder(tmp_path / "d", classes=("a",))
    (root / "b").symlink_to(tmp_path / "elsewhere" / "x")
    assert examine(ref(root)).classes == {"a": 10, "b": 10}
    (root / "a" / "round").symlink_to(root / "a")
    with pytest.raises(DataError, match="a/round is a link to a folder that holds it"):
        data.identity(ref(root))


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("self", "a link to nothing"),
        ("a/self", "no ending: no image"),
        ("a/in/self", "no ending: no image"),
        ("a/self.png", "unreadable"),
    ],
)
def test_a_link_to_itself_is_left_out_like_other_files(
    tmp_path: Path, link: str, reason: str
) -> None:
    root = folder(tmp_path / "d")
    (root / "a" / "in").mkdir()
    (root / link).symlink_to(Path(link).name)
    if reason == "unreadable":
        told = f"1 of 21 images cannot be read: {root / link} .*symbolic links.*--skip-unreadable"
        with pytest.raises(DataError, match=told):
            examine(ref(root))
    found = examine(ref(root, skip_unreadable=True))
    assert found.classes == {"a": 10, "b": 10}
    assert found.skipped[reason][0] == 1
    assert link in found.skipped[reason][1][0]


def test_a_directory_that_holds_only_a_link_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(DataError, match="holds 0 class folders: at least two are needed"):
        examine(ref(tmp_path))


def test_a_class_whose_name_is_no_plain_text_is_quoted(tmp_path: Path) -> None:
    root = folder(tmp_path / "d" / "train", 40, classes=(" ", "a\nb", "plain"))
    for name in (" ", "plain"):
        folder(tmp_path / "d" / "test", 4, classes=(name,), seed=5000 + len(name))
    for path in sorted((root / "a\nb").iterdir())[1:]:
        path.unlink()
    told = "\n".join(lines(examine(ref(root.parent))))
    assert r"""(' ' 44, plain 44, 'a\nb' 1)""" in told
    assert r"""there is no test image of the class 'a\nb'""" in told
    assert "of the class ' ' to train on and 1 of 'a\\nb'" in told


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    (root / "a" / "locked").mkdir(mode=0)
    if os.access(root / "a" / "locked", os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(DataError, match="locked cannot be read: Permission denied"):
        data.describe(ref(root))


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 200])  # in this process, and in others
def test_all_that_cannot_be_read_is_told_at_once_or_left_out(count: int, tmp_path: Path) -> None:
    root = folder(tmp_path / "d", count)
    cut = root / "b" / "0007.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    (root / "a" / "0003.png").write_text("hello")
    (root / "a" / "0005.png").write_bytes(b"")
    (root / "b" / "zzz.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError) as told:
        data.describe(ref(root))
    message = str(told.value)
    assert message.startswith(f"4 of {2 * count + 1} images cannot be read: ")
    for name, why in (
        ("a/0003", "it is no image"),
        ("a/0005", "it is empty"),
        ("b/0007", "image file is truncated"),
        ("b/zzz", "a link to nothing"),
    ):
        assert f"{root}/{name}.png ({why}" in message
    found = examine(ref(root, skip_unreadable=True))
    assert found.classes == {"a": count - 2, "b": count - 1}
    assert found.skipped["unreadable"][0] == 4
    skipped = data.identity(ref(root, skip_unreadable=True))
    images = data.read(ref(root, skip_unreadable=True), "train")
    assert np.array_equal(images.pixels[images.rows[3]].transpose(1, 2, 0), colour(4))
    for path in (cut, root / "a/0003.png", root / "a/0005.png", root / "b/zzz.png"):
        path.unlink()
    assert data.identity(ref(root)) == skipped  # the same images, without the others


def test_what_could_not_be_read_may_be_removed(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 10)
    (root / "a" / "0.png").write_text("hello")  # before all others
    skipping = ref(root, skip_unreadable=True)
    assert examine(skipping).skipped["unreadable"][0] == 1
    (root / "a" / "0.png").unlink()
    anew()
    assert examine(skipping).classes == {"a": 10, "b": 10}
    images, names = data.load(skipping, "test"), data.names(skipping)
    for row in images.rows:
        expected = np.asarray(Image.open(root / names[row])).transpose(2, 0, 1)
        np.testing.assert_array_equal(images.pixels[row], expected)


def test_a_folder_may_be_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d")
    expected = data.names(ref(root))
    monkeypatch.chdir(root)
    assert data.names(ref(Path("."))) == expected


def test_a_refusal_names_twenty_at_most(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", 40)
    for path in (root / "a").iterdir():
        path.write_text("hello")
    with pytest.raises(DataError, match=r"40 of 80 images .* and 20 more; --skip-unreadable"):
        data.describe(ref(root))
    with pytest.raises(DataError, match=r"no image of the class a in .* can be read"):
        data.describe(ref(root, skip_unreadable=True))


# --- what cannot be learned ----------------------------------------------------------------------


def test_a_folder_with_one_class_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "d", classes=("a",))
    with pytest.raises(DataError, match="holds 1 class folder: at least two are needed"):
        data.describe(ref(tmp_path / "d"))


@pytest.mark.parametrize("tone", ["same", "different"])
def test_blank_images_and_copies_of_one_are_refused(tone: str, tmp_path: Path) -> None:
    for label, name in enumerate("ab"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for n in range(10):
            path = tmp_path / "d" / name / f"{n}.png"
            value = 7 if tone == "same" else 20 * n + label
            Image.new("RGB", (8, 8), (value, value // 2, 0)).save(path)
    with pytest.raises(DataError, match="of a single colour: nothing can be learned"):
        examine(ref(tmp_path / "d"))
    for path in (tmp_path / "d").rglob("*.png"):
        Image.fromarray(colour(1)).save(path)
    data.identity(ref(tmp_path / "d"))
    with pytest.raises(DataError, match=r"the 20 images .* copies of one: nothing can be learned"):
        examine(ref(tmp_path / "d"))


def test_images_of_one_size_keep_it_up_to_that_of_photos(tmp_path: Path) -> None:
    for height, width, read_as in ((256, 1024, (256, 1024)), (257, 1024, (224, 224))):
        root = folder(tmp_path / f"{height}", 3, height=height, width=width)
        assert data.describe(ref(root)).shape == (3, *read_as)
    assert data.describe(ref(root, size=300)).shape == (3, 300, 300)


def test_imbalance_copies_and_blanks_are_warned_of(tmp_path: Path) -> None:
    root = folder(tmp_path / "d" / "train", 99, classes=("a",))
    folder(tmp_path / "d" / "test", 3, seed=5000)
    (root / "b").mkdir()
    Image.fromarray(colour(4000, 1)).save(root / "b" / "only.png")
    shutil.copy(root / "a" / "0000.png", tmp_path / "d/test/a/copy.png")
    shutil.copy(root / "a" / "0000.png", root / "b" / "torn.png")
    Image.new("RGB", (32, 32)).save(root / "a" / "black.png")
    found = examine(ref(root.parent))
    warnings = "\n".join(found.warnings)
    assert "1 image of test is a copy of images of train" in warnings
    assert "1 image has copies in two classes or more" in warnings
    assert "1 image is of a single colour" in warnings
    assert "of the class a to train on and" in warnings
    told = "\n".join(lines(found))
    assert "images of train (test/a/copy.png)\n" in told
    assert "two classes or more (train/a/0000.png, train/b/torn.png, test/a/copy.png)\n" in told
    assert "of a single colour (train/a/black.png)" in told
    assert found.named["1 image is of a single colour"] == (1, ("train/a/black.png",))


def test_classes_sorted_by_format_are_not_told_to_look_like_parts(tmp_path: Path) -> None:
    for n, name in enumerate(("cat", "dog")):
        for m, ending in enumerate(("jpg", "png")):
            (tmp_path / name / ending).mkdir(parents=True)
            for k in range(4):
                pixels = colour(100 * n + 10 * m + k)
                Image.fromarray(pixels).save(tmp_path / name / ending / f"{k}.png")
    (note,) = examine(ref(tmp_path)).notes
    assert note == "each class (cat, dog) holds folders of the same names (jpg, png)"


def test_what_is_skipped_agrees_with_its_number(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"")
    told = lines(examine(ref(tmp_path)))
    assert any(line.startswith("skipped: 1 dropping (") for line in told), told
