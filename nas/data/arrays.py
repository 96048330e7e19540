"""Arrays in one file, mapped: all processes of a machine read one copy of them.

The file is safetensors' format, which says its types and places in JSON at the beginning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.data import cache

TYPES: Mapping[str, type[np.generic]] = {"U8": np.uint8, "I32": np.int32, "I64": np.int64}
Arrays = dict[str, npt.NDArray[Any]]


def save(path: Path, arrays: Mapping[str, npt.NDArray[Any]], facts: Any) -> None:
    """Writes arrays of ``TYPES`` and what JSON can tell beside them. Raises OSError."""
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with cache.whole(path) as part:
        try:
            save_file(whole, part, {"told": json.dumps(facts)})
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise error if isinstance(error, OSError) else OSError(0, str(error)) from error


def load(path: Path) -> tuple[Arrays, Any]:
    """The arrays, mapped, and what was told. Raises OSError, ValueError, KeyError where that is not
    there, not whole, or of another form."""
    data = np.memmap(path, np.uint8, "r")
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < begin:
        raise ValueError(f"{path} is cut off")
    header = json.loads(data[8:begin].tobytes())
    facts = json.loads(header.pop("__metadata__")["told"])
    arrays: Arrays = {}
    for name, entry in header.items():
        first, last = (begin + place for place in entry["data_offsets"])
        if last > len(data):
            raise ValueError(f"{path} is cut off")
        arrays[name] = data[first:last].view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, facts
