"""A network as plain PyTorch source that needs torch alone: not this package, nor torchvision.

With a model's card, the source reads the model's own file, prepares images as the training did
(files by Pillow), and is a command that predicts.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from nas.data import colours, kinds, modes
from nas.errors import NasError
from nas.language.architecture import Architecture
from nas.language.gates import SqueezeExcitation
from nas.training.card import Card
from nas.training.network import AuxHead, ConcatOf, Network, SumOf, build
from nas.version import __version__

SUM = '''
class Sum(nn.ModuleList):
    """The elementwise sum of its branches."""

    def forward(self, x):
        return sum(branch(x) for branch in self)
'''

CONCAT = '''
class Concat(nn.ModuleList):
    """Its branches side by side in the channels."""

    def forward(self, x):
        return torch.cat([branch(x) for branch in self], 1)
'''

SQUEEZE = '''
class SqueezeExcitation(nn.Module):
    """Weighs each channel by what all of the map says (Hu et al. 2018)."""

    def __init__(self, channels, squeezed, activation, gate):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = activation, gate

    def forward(self, x):
        y = self.activation(self.fc1(self.avgpool(x)))
        return x * self.scale_activation(self.fc2(y))
'''

FILLED = """
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "I64": torch.int64}
    data = Path(weights).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    state = {}
    for name, told in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = told["data_offsets"]
            held = bytearray(data[start + first : start + end])
            state[name] = torch.frombuffer(held, dtype=kinds[told["dtype"]]).view(told["shape"])
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    return module
""".strip("\n")

MODEL = '''
CLASSES = {classes}
CHANNELS, HEIGHT, WIDTH = {input}
MEAN = {mean}  # of pixels from 0 to 255
STD = {std}
WEIGHTS = {weights}  # from the folder of this file, or there by its name

{found}

def load(weights=None):
    """The network with the weights of a safetensors file, by itself this file's own, ready to
    predict."""
    weights = weights or found(WEIGHTS)
    module = network().eval()
{filled}


def logits(module, pixels):
    """The network's answer, (images, classes), to pixels from 0 to 255:
    (images, channels, height, width)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return module((pixels.float() - mean) / std)


def predict(module, pixels):
    """The probability of each class, (images, classes)."""
    with torch.inference_mode():
        return logits(module, pixels).softmax(1)


{decode}

if __name__ == "__main__":
    try:
        trained = load()
    except OSError as error:
        sys.exit(str(error))
    for path, pixels in decoded(sys.argv[1:]):
        (probabilities,) = predict(trained, pixels[None])
        best = int(probabilities.argmax())
        print(path, CLASSES[best], f"{{float(probabilities[best]):.4f}}", sep="\\t")
'''

DECODE = '''def decode(path):
    """An image file as pixels, (channels, height, width), prepared as for the training. Needs
    Pillow, for more than 8 bits a pixel NumPy, for HEIC pillow-heif."""
    from PIL import Image, ImageOps

    if not Path(path).stat().st_size:
        raise ValueError("it is empty")
    added = ADDED.get(Path(path).suffix.lower())
    if added:
        try:
            module = importlib.import_module(added[0])
        except ImportError:
            raise ValueError(f"Pillow cannot read it (install {added[1]})") from None
        getattr(module, "register_heif_opener", lambda: None)()
    mode = "L" if CHANNELS == 1 else "RGB"
    with Image.open(path) as image:
        known, turn = known_range(image), foreign(image)
        image.draft("RGB" if turn else mode, (max(WIDTH, HEIGHT),) * 2)
        seen = ImageOps.exif_transpose(image)
        seen = turned(seen, turn) if turn else seen
        seen = picture(seen, mode, known)
        if seen.size != (WIDTH, HEIGHT):
            seen = ImageOps.fit(seen, (WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(seen.tobytes()), dtype=torch.uint8)
        return pixels.view(HEIGHT, WIDTH, CHANNELS).permute(2, 0, 1)


def decoded(paths):
    """Each file that can be read, with its pixels; stderr tells of the others, and once all are
    told of, the command ends with 1."""
    failed = 0
    for path in paths:
        try:
            pixels = decode(path)
        except Exception as error:  # Pillow raises nearly anything on a broken file
            failed += 1
            print(f"{path} is not a readable image: {error}", file=sys.stderr)
        else:
            yield path, pixels
    if failed:
        sys.exit(f"{failed} of {len(paths)} files could not be read")


'''
ADDED = {end: kinds.ADDED[kind] for end, kind in kinds.ENDINGS.items() if kind in kinds.ADDED}
DECODE += f"ADDED = {ADDED}\n"
DECODE += f"GROUND, OWN_RANGE, DEEP = {modes.GROUND}, {modes.OWN_RANGE}, {modes.DEEP}\n\n\n"
DECODE += "\n\n".join(
    inspect.getsource(function)
    for function in (
        *(colours.to_srgb, colours.foreign, colours.turned),
        *(modes.picture, modes.deep, modes.known_range, modes.own_range, modes.from_lab),
    )
)

FOUND = '''
def found(weights, folder=None):
    """Where a file of weights is: where it was at the export, from this file's folder, or beside
    this file."""
    here = folder or Path(__file__).absolute().parent
    places = (here / weights, here / Path(weights).name)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{places[1].name}, the weights, must travel with this file: not at {places[0]}, "
        "nor beside this file"
    )
'''


def python_source(architecture: Architecture, card: Card | None = None, weights: str = "") -> str:
    """A module with ``network()``: the deployed network, without auxiliary classifiers.

    Its state dict has the keys of ``nas.build``'s, so that trained weights load. With a ``card``
    it has also ``load()``, which reads the model's file ``weights`` (a path from the source's
    folder), ``predict(module, pixels)`` and ``decode(path)``. Raises NasError for a layer, of a
    plug-in, that is none of torch's own.
    """
    with torch.device("meta"):
        network = build(architecture)
    body = source_of(network)
    head = (
        f'"""{architecture}\n\n{architecture.params:,} params, {architecture.macs:,} MACs.'
        f" Made by nas {__version__}.\n"
    )
    if card:
        head += (
            "\n    python THIS_FILE IMAGE...\n\nprints the class and its probability of each.\n\n"
            + travels([weights])
        )
    modules = ["functools", "importlib", "io", "itertools", "json", "sys"]
    future = "from __future__ import annotations\n"
    own = [future, *(f"import {name}" for name in modules), "from pathlib import Path", ""]
    imports = own if card else []
    torch_too = card or "Concat(" in body
    imports += ["import torch"] if torch_too else []
    imports += ["from torch import nn"]
    parts = [head + '"""\n\n' + "\n".join(imports) + "\n"]
    parts += classes_in(body)
    parts.append(f"\ndef network():\n    return {textwrap.indent(body, '    ').strip()}\n")
    if card:
        source = MODEL.format(
            classes=listed(card.classes),
            input=architecture.input,
            mean=[255 * value for value in card.normal.mean],
            std=[255 * value for value in card.normal.std],
            weights=repr(weights),
            found=FOUND,
            filled=FILLED,
            decode=DECODE,
        )
        parts.append(source)
    return "\n".join(parts)


def travels(weights: Sequence[str]) -> str:
    """Which files must come along with a source, as a paragraph of its docstring."""
    names = ", ".join(weights).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"Its weights are read from {names}, from this\nfile's folder, or beside this file: take "
        "them along.\n"
    )


def classes_in(body: str) -> list[str]:
    """The source of the classes that a network's source has beside torch's."""
    known = (("Sum", SUM), ("Concat", CONCAT), ("SqueezeExcitation", SQUEEZE))
    return [part for name, part in known if f"{name}(" in body]


def listed(classes: tuple[str, ...]) -> str:
    lines = textwrap.indent("".join(f"{name!r},\n" for name in classes), "    ")
    return repr(list(classes)) if len(repr(classes)) < 80 else f"[\n{lines}]"


def source_of(module: nn.Module) -> str:
    if isinstance(module, SqueezeExcitation):
        kinds = [f"nn.{type(m).__name__}()" for m in (module.activation, module.scale_activation)]
        conv = module.fc1
        return f"SqueezeExcitation({conv.in_channels}, {conv.out_channels}, {', '.join(kinds)})"
    if isinstance(module, AuxHead):  # in its place, so that the entries after it keep their names
        return "nn.Identity()"
    if isinstance(module, (SumOf, ConcatOf)):
        name = "Sum" if isinstance(module, SumOf) else "Concat"
        return f"{name}([\n{_lines(list(module.children()))}\n])"
    if isinstance(module, (Network, nn.Sequential)):
        return f"nn.Sequential(\n{_lines(list(module.children()))}\n)"
    made = type(module)
    if getattr(nn, made.__name__, None) is not made or next(module.children(), None):
        raise NasError(
            f"{made.__name__} is no layer of torch.nn: plain PyTorch source cannot have it"
        )
    return f"nn.{made.__name__}({', '.join(_arguments(module))})"


def _arguments(module: nn.Module) -> Iterator[str]:
    """What makes a layer of torch, which keeps its arguments as attributes of the same names.
    (``extra_repr`` leaves some out: the ceil_mode of average pooling.) Raises NasError."""
    for p in inspect.signature(type(module)).parameters.values():
        if p.name in ("device", "dtype") or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        value = getattr(module, p.name, p.empty)
        if isinstance(value, nn.Parameter) or (value is None and isinstance(p.default, bool)):
            value = value is not None  # a bias
        if not isinstance(value, (bool, int, float, str, tuple, type(None))):
            name = type(module).__name__
            raise NasError(f"{name} does not tell its {p.name}: plain PyTorch source needs it")
        if p.default is p.empty:
            yield repr(value)
        elif value != p.default and value != (p.default, p.default):  # for height and width
            yield f"{p.name}={value!r}"


def _lines(children: list[nn.Module]) -> str:
    return textwrap.indent("".join(f"{source_of(child)},\n" for child in children), "    ").rstrip()
