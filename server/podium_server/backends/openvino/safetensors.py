"""Reads `.safetensors`: a JSON header, then bytes. So little that the library of that name need not be installed."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import ConfigInvalid

HEADER_BYTES_MAX = 100_000_000
"""The format's own bound."""

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def read_tensors(file: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name, read when they are touched; bfloat16 becomes float32 at once.

    Raises:
        ConfigInvalid: the file is no safetensors, is cut off, or holds a type that is not known here.

    """
    try:
        with file.open("rb") as opened:
            whole = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        header = int.from_bytes(whole[:8], "little")
        if header > min(HEADER_BYTES_MAX, len(whole) - 8):
            raise ValueError(f"the header is said to have {header} bytes of {len(whole)}")
        said = json.loads(whole[8 : 8 + header])
        start = 8 + header
        return {name: _tensor(whole, start, entry) for name, entry in said.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigInvalid(f"{file} is no safetensors file that can be read: {error}") from None


def _tensor(whole: mmap.mmap, start: int, entry: dict[str, Any]) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= len(whole) - start:
        raise ValueError(f"a tensor lies at {begin} to {end} of {len(whole) - start} bytes")
    kind = entry["dtype"]
    if kind == "BF16":  # the upper half of a float32
        upper = np.frombuffer(whole, "<u2", (end - begin) // 2, start + begin)
        return (upper.astype("<u4") << 16).view("<f4").reshape(entry["shape"])
    if kind not in _TYPES:
        raise ValueError(f"a tensor is of type {kind!r}; known here are {', '.join(_TYPES)} and BF16")
    dtype = np.dtype(_TYPES[kind])
    return np.frombuffer(whole, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(entry["shape"])
