"""Reads what stands before the weights of safetensors files: names, number formats, sizes. Standard library only."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

_PACKED = ("_blocks", "_packed")
_NO_NUMBERS = ("_scales", "_scale_inv", "_scale", "_zero_point", "_shape", "_g_idx")
"""How tensors with several numbers in one are called, and those that only say how to unpack others."""


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


def unpacked_numbers(folder: Path, bits: int) -> int:
    """How many numbers the weights in a folder are once they are unpacked. Raises as `stored_weights` does.

    Args:
        bits: of a number, where several are packed into one.
    """
    return sum(
        8 * weight.nbytes // bits if weight.name.endswith(_PACKED) else prod(weight.shape)
        for weight in stored_weights(folder)
        if not weight.name.endswith(_NO_NUMBERS)
    )
