"""What a name in a folder of images means: an image, a part of the set, or a dropping."""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Mapping

from nas.data.images import Part

# Pillow's formats and their usual endings. The content decides a file's format: a JPEG called .png
# is read. Formats not listed here are not opened (EPS runs Ghostscript).
FORMATS: Mapping[str, str] = {
    # Many phones write two pictures to one file (MPO), usually called .jpg.
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo",
    "PNG": ".png .apng",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif .avifs",
    "HEIF": ".heic .heif .hif",
    "JXL": ".jxl",
    "TGA": ".tga",
    "PCX": ".pcx",
    "SGI": ".sgi",
    "ICO": ".ico",
    "QOI": ".qoi",
}
ENDINGS: Mapping[str, str] = {
    ending: kind for kind, endings in FORMATS.items() for ending in endings.split()
}
# Formats that Pillow reads only if built with a feature, and those that need another package.
BUILT: Mapping[str, str] = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
# The package's module, and its name on PyPI.
ADDED: Mapping[str, tuple[str, str]] = {
    "HEIF": ("pillow_heif", "pillow-heif"),
    "JXL": ("pillow_jxl", "pillow-jxl-plugin"),
}
# How these files begin: the major brand of an ISO base media file (ISO/IEC 23008-12), and JPEG XL,
# bare or in a container (ISO/IEC 18181-2).
HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
AVIF = (b"avif", b"avis")
BRANDS: Mapping[bytes, str] = {**dict.fromkeys(HEIF, "HEIF"), **dict.fromkeys(AVIF, "AVIF")}
JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")

# In order of preference: of two folders for one part the first is used, and the other reported.
# "eval" is the test part, or the validation part where there is another test part.
PARTS: Mapping[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trn", "tr"),
    "validation": (
        *("val", "valid", "validation", "validate", "valset"),
        *("dev", "devel", "development", "devset", "eval", "evaluation"),
    ),
    "test": ("test", "testing", "testset", "tst", "te", "eval", "evaluation"),
}
# Words allowed beside those: train_images, test-set, Training Data.
BESIDE = frozenset(
    {"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder", "dir"}
)

DROPPINGS = frozenset(
    {
        *("__macosx", "icon\r"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("system volume information", "recycler", "lost+found"),
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),
        *("__pycache__",),
    }
)


def is_dropping(name: str) -> bool:
    """Whether a file is left by a system, tool or network share: any hidden file, and known names.

    ``._x.jpg`` is from macOS, ``.ipynb_checkpoints`` from Jupyter, ``@eaDir`` from Synology,
    ``~$x.png`` from an Office program that has x.png open.
    """
    return name.startswith((".", "~$")) or name.lower() in DROPPINGS


@functools.cache
def readable() -> frozenset[str]:
    """The FORMATS that Pillow reads here, with the installed plug-ins."""
    from PIL import Image, features

    for name, _ in ADDED.values():
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        getattr(module, "register_heif_opener", lambda: None)()
    Image.init()
    return frozenset(
        kind
        for kind in FORMATS
        if kind in Image.OPEN and (kind not in BUILT or features.check(BUILT[kind]))
    )


def unread(name: str) -> str:
    """Why a file of this name is not read as an image; empty where it is."""
    return _unread(os.path.splitext(name)[1])


DROPPING = "droppings"


def unused(name: str) -> str:
    """As ``unread``, or ``DROPPING``. Only hidden droppings have an image's ending, so that for
    images a look-up of the ending is enough."""
    if name.startswith((".", "~$")):
        return DROPPING
    dot = name.rfind(".")
    why = _unread(name[dot:] if dot > 0 else "")
    return DROPPING if why and is_dropping(name) else why


@functools.lru_cache(maxsize=10_000)
def _unread(ending: str) -> str:
    ending = ending.lower()
    kind = ENDINGS.get(ending)
    if kind is None:
        return f"{ending or 'no ending'}: no image"
    if kind in readable():
        return ""
    return f"{ending}: {lacking(kind)}"


def lacking(kind: str) -> str:
    """What is missing to read a format."""
    need = f"install {ADDED[kind][1]}" if kind in ADDED else "built without it"
    return f"Pillow cannot read it ({need})"


def unreadable(data: bytes) -> str:
    """The format of an image that cannot be read here, by its content; empty otherwise. A phone's
    HEIC may be called .jpg."""
    kind = ""
    if data[4:8] == b"ftyp":
        kind = BRANDS.get(data[8:12], "")
    elif data.startswith(JXL):
        kind = "JXL"
    return "" if kind in readable() else kind


def part_of(name: str) -> tuple[tuple[Part, ...], str]:
    """The parts that a folder of this name may be, and the remaining words of its name.

    ``Train`` and ``train_images``: (("train",), ""). ``seg_test``: (("test",), "seg"), a part only
    beside a ``seg_train``. ``test tube`` is alike, but has no such neighbour.
    """
    words = re.findall(r"[a-z]+", name.lower())
    for n, word in enumerate(words):
        parts = tuple(part for part, names in PARTS.items() if word in names)
        if parts:
            rest = [w for w in words[:n] + words[n + 1 :] if w not in BESIDE]
            return parts, " ".join(rest)
    return (), ""


def rank(name: str) -> tuple[int, str]:
    """A sort key that puts preferred names of a part first: ``val`` before ``valid``, ``test``
    before ``eval``."""
    words = re.findall(r"[a-z]+", name.lower())
    places = [names.index(word) for names in PARTS.values() for word in words if word in names]
    return max(places, default=0), name
