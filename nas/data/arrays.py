"""Arrays in one memory-mapped file: all processes of a machine share one copy.

The format is safetensors, whose JSON header gives each array's type and offsets.
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
    """Writes arrays of ``TYPES``, with ``facts`` as JSON. Raises OSError."""
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with cache.whole(path) as part:
        try:
            part.touch()
            mode = part.stat().st_mode  # of this umask; safetensors makes files of mode 0600
            save_file(whole, part, {"told": json.dumps(facts)})
            part.chmod(mode)
        except Exception as error:  # safetensors raises its own error for a full disk
            raise error if isinstance(error, OSError) else OSError(0, str(error)) from error


def load(path: Path) -> tuple[Arrays, Any]:
    """The arrays, mapped, and the ``facts`` saved with them. Raises OSError, ValueError or KeyError
    where the file is missing, truncated or of another format."""
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
