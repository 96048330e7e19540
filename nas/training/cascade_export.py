"""A cascade for elsewhere: one source that needs torch alone, or one ONNX graph.

As ``nas.training.export`` does, both are run beside the cascade before they are written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas import artifacts
from nas.errors import NasError, brief
from nas.training.cascade import Cascade
from nas.training.export import TOLERANCE, deployed, noise, photographs
from nas.training.onnx import OnnxModel, needs, to_onnx
from nas.training.predict import Probabilities
from nas.training.python_source import DECODE, FILLED, FOUND, classes_in, listed, source_of, travels
from nas.version import __version__

FORMATS = ("python", "onnx")


def export(cascade: Cascade, format: str, output: Path, file: Path) -> float | None:
    """Writes a cascade, whose own file is ``file``, to ``output`` in a format of FORMATS, and
    returns by how much its probabilities differ at most; None where nothing here can run it.
    Raises NasError."""
    plain = Cascade(
        [dataclasses.replace(m, model=deployed(m.model)) for m in cascade.members],
        cascade.about,
    )
    own = [file, *(file.with_name(m.file) for m in cascade.members if m.file)]
    if output.exists() and any(each.exists() and output.samefile(each) for each in own):
        raise NasError(f"{output} is of the cascade itself: name another file")
    if format == "python":
        data = python_source(plain, file, output.absolute().parent).encode()
    else:
        data = to_onnx_graph(plain)
    run = _runs(format, data, output.absolute().parent)
    difference = None if run is None else compare(plain, run)
    if difference is not None and not difference <= TOLERANCE:
        raise NasError(
            f"{output} was not written: as {format} the cascade's probabilities differ by "
            f"{difference:.1g}, more than {TOLERANCE:g}"
        )
    artifacts.replace(output, data)
    return difference


def compare(cascade: Cascade, run: Callable[[torch.Tensor], Probabilities]) -> float:
    """The largest difference of a probability; one so near a threshold that another member answers
    would show as such."""
    pixels = torch.cat([noise(cascade.input), photographs(cascade.input)])
    expected, _ = cascade.answers(pixels)
    return float(np.abs(run(pixels) - expected).max())


def _runs(format: str, data: bytes, folder: Path) -> Callable[[torch.Tensor], Probabilities] | None:
    if format == "python":
        names: dict[str, Any] = {"__file__": str(folder / "cascade.py"), "__name__": "exported"}
        exec(compile(data, names["__file__"], "exec"), names)
        members = names["load"]()
        return lambda pixels: names["predict"](members, pixels)[0].numpy()
    if find_spec("onnxruntime") is None:
        return None
    return OnnxModel(data, "what was exported").probabilities


# --- plain Python --------------------------------------------------------------------------------

SOURCE = '''
CLASSES = {classes}
CHANNELS, HEIGHT, WIDTH = {input}
# Of each member: its network, its weights from the folder of this file (or there by their name),
# mean and deviation of pixels from 0 to 255, the temperature of its softmax, the least confidence
# that it answers at, and the SHA-256 of its weights' file.
MEMBERS = [
{members}
]


{found}

def load(folder=None):
    """The members with their weights, from a folder or this file's, ready to predict. Raises
    ValueError for weights that were changed."""
    files = [found(each[1], folder) for each in MEMBERS]
    for each, file in zip(MEMBERS, files):
        if hashlib.sha256(file.read_bytes()).hexdigest() != each[6]:
            raise ValueError(f"{{file}} was changed since this was exported")
    return [filled(each[0]().eval(), file) for each, file in zip(MEMBERS, files)]


def filled(module, weights):
    """The network with the weights of a safetensors file."""
{filled}


def predict(members, pixels):
    """The probability of each class (images, classes) for pixels from 0 to 255 (images, channels,
    height, width), and the number of the member that answered for each image."""
    found = torch.empty(len(pixels), len(CLASSES))
    by, left = torch.empty(len(pixels), dtype=torch.int64), torch.arange(len(pixels))
    with torch.inference_mode():
        for number, (module, told) in enumerate(zip(members, MEMBERS)):
            if not len(left):
                break
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in told[2:4])
            logits = module((pixels[left].float() - mean) / std)
            soft = (logits / told[4]).softmax(1)
            stops = soft.max(1).values >= told[5]
            if number + 1 == len(members):
                stops[:] = True
            found[left[stops]], by[left[stops]] = soft[stops], number
            left = left[~stops]
    return found, by


{decode}

if __name__ == "__main__":
    try:
        trained = load()
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    for path, pixels in decoded(sys.argv[1:]):
        (probabilities,), (number,) = predict(trained, pixels[None])
        best = int(probabilities.argmax())
        print(path, CLASSES[best], f"{{float(probabilities[best]):.4f}}", int(number), sep="\\t")
'''


def python_source(cascade: Cascade, file: Path, folder: Path) -> str:
    """A module for ``folder`` that reads the members' files beside the cascade's own ``file``."""
    bodies, members, beside = [], [], []
    for number, member in enumerate(cascade.members, 1):
        body = source_of(member.model.network)
        body = textwrap.indent(body, "    ").strip()
        bodies.append(f"\ndef network_{number}():\n    return {body}\n")
        weights = file.absolute().with_name(member.file)
        normal = member.model.card.normal
        least = member.threshold if math.isfinite(member.threshold) else -1.0
        beside.append(os.path.relpath(weights, folder))
        told = [
            repr(beside[-1]),
            *(repr([255 * value for value in values]) for values in (normal.mean, normal.std)),
            repr(member.temperature),
            repr(least),
            repr(hashlib.sha256(weights.read_bytes()).hexdigest()),
        ]
        members.append(f"    (network_{number}, {', '.join(told)}),")
    head = (
        f'"""A cascade of {len(members)} networks. Made by nas {__version__}.\n\n'
        "    python THIS_FILE IMAGE...\n\nprints of each the class, its probability and the number "
        f'of the network that answered.\n\n{travels(beside)}"""\n\n'
        "from __future__ import annotations\n\n"
        "import functools\nimport hashlib\nimport importlib\nimport io\nimport itertools\n"
        "import json\nimport sys\n"
        "from pathlib import Path\n\n"
        "import torch\nfrom torch import nn\n"
    )
    rest = SOURCE.format(
        classes=listed(cascade.classes),
        input=cascade.input,
        members="\n".join(members),
        found=FOUND,
        filled=FILLED,
        decode=DECODE,
    )
    return "\n".join([head, *classes_in("".join(bodies)), *bodies, rest])


# --- ONNX ----------------------------------------------------------------------------------------


def to_onnx_graph(cascade: Cascade) -> bytes:
    """One graph that takes one image, ``pixels`` as a model's takes them, and answers ``logits``,
    already calibrated, and ``member``, the number of who answered: what comes after a member is in
    a branch of an If, which is not run where that member is sure. Raises NasError."""
    needs("onnx", "onnxscript")
    import onnx
    from onnx import TensorProto, helper

    protos = [onnx.load_from_string(to_onnx(member.model)) for member in cascade.members]
    try:
        graph = _stage(cascade, protos, 0)
        shape = [1, *cascade.input]
        graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
        made = helper.make_model(
            graph, opset_imports=protos[0].opset_import, ir_version=protos[0].ir_version
        )
        told = cascade.card.metadata() | {
            "cascade": json.dumps(
                [{"temperature": m.temperature,
                  "threshold": m.threshold if math.isfinite(m.threshold) else None}
                 for m in cascade.members]
            )
        }  # fmt: skip
        helper.set_model_props(made, told)
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # of many kinds, all its own
        raise NasError(f"the cascade cannot be exported to ONNX: {brief(str(error))}") from error
    data: bytes = made.SerializeToString()
    return data


def _stage(cascade: Cascade, protos: list[Any], number: int) -> Any:
    """The graph of a member and of all that come after it."""
    from onnx import compose, helper, inliner, numpy_helper

    member, proto = cascade.members[number], inliner.inline_local_functions(protos[number])
    prefix = f"member{number}_"
    graph = compose.add_prefix_graph(proto.graph, prefix)

    def name(text: str) -> str:
        return f"{prefix}{text}"

    def same(these: list[str], those: list[str]) -> list[Any]:
        return [helper.make_node("Identity", [a], [b]) for a, b in zip(these, those, strict=True)]

    nodes = [helper.make_node("Identity", ["pixels"], [name("pixels")]), *graph.node]
    constants = [*graph.initializer]

    def constant(text: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(value, name(text)))
        return name(text)

    by = constant("by", np.array([number], np.int64))
    temperature = constant("temperature", np.array(member.temperature, np.float32))
    nodes.append(helper.make_node("Div", [name("logits"), temperature], [name("soft")]))
    last = number + 1 == len(cascade.members)
    own = [name("soft"), by]
    if last:
        outputs = [name("out_logits"), name("out_member")]
        nodes += same(own, outputs)
    else:
        flat = constant("flat", np.array([], np.int64))
        least = constant("least", np.array(member.threshold, np.float32))
        nodes += [
            helper.make_node("Softmax", [name("soft")], [name("all")], axis=1),
            helper.make_node("ReduceMax", [name("all")], [name("most")], keepdims=1),
            helper.make_node("Reshape", [name("most"), flat], [name("sure")]),
            helper.make_node("GreaterOrEqual", [name("sure"), least], [name("stops")]),
        ]
        told = [name("then_logits"), name("then_member")]
        stop = helper.make_graph(same(own, told), name("stop"), [], _outputs(cascade, told))
        outputs = [name("out_logits"), name("out_member")]
        after = _stage(cascade, protos, number + 1)
        nodes.append(
            helper.make_node("If", [name("stops")], outputs, then_branch=stop, else_branch=after)
        )
    if number == 0:
        final = ["logits", "member"]
        nodes += same(outputs, final)
        outputs = final
    return helper.make_graph(nodes, name("graph"), [], _outputs(cascade, outputs), constants)


def _outputs(cascade: Cascade, names: list[str]) -> list[Any]:
    from onnx import TensorProto, helper

    logits, member = names
    return [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, len(cascade.classes)]),
        helper.make_tensor_value_info(member, TensorProto.INT64, [1]),
    ]
