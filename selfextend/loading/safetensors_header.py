"""Reads what stands before the weights of safetensors files: names, number formats, sizes. Standard library only."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

_PACKED_PAIRS, _SCALES = "_blocks", ("_scales", "_scale_inv", "_scale")
"""How the tensors of FP4, which has two numbers a byte, and those that only scale others are called."""


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of a safetensors file: its name, safetensors' name of its number format, its shape, its bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    nbytes: int


def weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads: beside them some checkpoints have the same weights in another order."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))


def stored_weights(folder: Path) -> Iterator[StoredWeight]:
    """The tensors in a folder's safetensors files, from their headers.

    Raises:
        ValueError, KeyError, struct.error: a file is not whole.
    """
    for path in weight_files(folder):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                yield StoredWeight(name, entry["dtype"], tuple(entry["shape"]), end - start)


def unpacked_numbers(folder: Path) -> int:
    """How many numbers the weights in a folder are once FP8 or MXFP4 is unpacked. Raises as `stored_weights` does."""
    return sum(
        prod(weight.shape) * (2 if weight.name.endswith(_PACKED_PAIRS) else 1)
        for weight in stored_weights(folder)
        if not weight.name.endswith(_SCALES)
    )
