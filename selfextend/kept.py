"""What was read of a text as a file, to be read on from after a restart: safetensors that say what they are of.

A file is only ever taken as what it is asked for: the same model, weights and all, the same tokens, the same settings,
and every byte as it was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from selfextend.kept_header import FORMAT, UnusableReadingError, about_reading
from selfextend.layer_states import States

_DIGEST = "sha256"
_PIECE = 1 << 22
"""Numbers that are weighed at a time."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}

_fingerprints: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def configuration(model: PreTrainedModel) -> str:
    """A checksum of the model's configuration, its class, and the libraries that compute with it. While a method is on
    for the model it has another configuration."""
    config: Any = model.config.to_dict()
    config.pop("_name_or_path", None)
    text = json.dumps(config, sort_keys=True, default=str)
    text += f" {type(model).__name__} torch {torch.__version__} transformers {transformers.__version__}"
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(model: PreTrainedModel) -> str:
    """A checksum of the model's weights as they are loaded, every one of them, with their formats and devices. Worked
    out once for a model."""
    if model not in _fingerprints:
        _fingerprints[model] = _fingerprint(model)
    return _fingerprints[model]


def _fingerprint(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            weighed = _weighed(tensor.detach()) if not tensor.is_meta else "elsewhere"
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.device.type} {weighed}\n".encode())
    return digest.hexdigest()


def _weighed(tensor: torch.Tensor) -> str:
    """A sum of all bytes in which every eight have a weight of their own. Worked out where the tensor is."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.storage_offset() % 8:
        flat = flat.clone()
    whole = len(flat) // 8 * 8
    numbers, total = flat[:whole].view(torch.int64), 0
    for start in range(0, len(numbers), _PIECE):
        piece = numbers[start : start + _PIECE]
        places = torch.arange(start, start + len(piece), device=piece.device)
        total += int((piece * (2 * places + 1)).sum())  # wraps around, which loses nothing
    return f"{total} {flat[whole:].tolist()}"


def write_reading(
    file: BinaryIO, states: States, about: Mapping[str, str], wait: Callable[[], None] = lambda: None
) -> None:
    """Write states as a safetensors file, one tensor after another, so that little memory is taken.

    Args:
        file: an empty one.
        about: texts by name, to be asked for when it is read.
        wait: called before each tensor; it may take its time.

    Raises:
        OSError: it cannot be written.
        ValueError: the states have a number format that such files do not know.
    """
    header, offset = dict[str, Any](), 0
    for name, tensor in states.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{tensor.dtype} cannot be written.")
        end = offset + tensor.nbytes
        kept = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        header[name], offset = kept, end
    header["__metadata__"] = {**about, "format": FORMAT, _DIGEST: "0" * 64}
    file.write(_header(header))
    digest = hashlib.sha256()
    for name, tensor in states.items():
        wait()
        digest.update(_said_of(name, tensor))
        data = _bytes_of(tensor)
        digest.update(data)
        file.write(data)
    header["__metadata__"][_DIGEST] = digest.hexdigest()
    file.seek(0)
    file.write(_header(header))


def _header(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _said_of(name: str, tensor: torch.Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    numbers: Any = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return memoryview(numbers)


def read_reading(path: Path, about: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The states of a file.

    Args:
        about: what it must be of.

    Raises:
        UnusableReadingError: it is of something else, damaged, or was not written by `write_reading`.
    """
    told = about_reading(path)
    if any(told.get(name) != text for name, text in about.items()):
        raise UnusableReadingError("it is of something else")
    digest, states = hashlib.sha256(), dict[str, torch.Tensor]()
    try:
        for name, tensor in _tensors(path):
            digest.update(_said_of(name, tensor))
            digest.update(_bytes_of(tensor))
            states[name] = tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise UnusableReadingError(f"it is damaged ({error})") from error
    if digest.hexdigest() != told.get(_DIGEST):
        raise UnusableReadingError("its bytes are not those that were written")
    return states


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor, in the order in which they were written."""
    with safe_open(path, "pt") as file:
        for name in file.offset_keys():
            yield name, file.get_tensor(name)
