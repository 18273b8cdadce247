"""Reads what stands before the weights of a GGUF file, llama.cpp's format, and checks it against the file's size.

Every number that says how much follows is compared with what does follow before anything is made of it: a damaged file
ends in an error, never in an endless loop or in more memory than the file has bytes. Once a file has passed, other
readers of it are safe. Standard library, and package `gguf` for the sizes of its number formats.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, LlamaFileType

from selfextend.errors import IncompleteModelError, UnsupportedModelError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4  # ggml's tensors have no more
_KEPT_NUMBERS = 4096  # a longer list of numbers describes a vocabulary, and is kept as its length
# A model's facts stand at the beginning, before the vocabulary, which takes megabytes.
_FACTS_BYTES = 1 << 16
_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file.

    Attributes:
        name: as llama.cpp calls it.
        shape: in torch's order.
        kind: the number format it is stored in.
        start: its first byte in the file.
        nbytes: how many bytes it takes there.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        path: the file.
        metadata: by llama.cpp's keys. Lists of strings, and long ones of numbers, are left as their length.
        tensors: in the order in which they are stored.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the kind of model; "" where it is not stated."""
        return str(self.metadata.get("general.architecture", ""))

    def of_architecture(self, key: str) -> Any:
        """The value of a key below the architecture's name, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def quantization(self) -> str:
        """The number format of most of the weights, as llama.cpp names it: "Q4_K"."""
        sizes: dict[GGMLQuantizationType, int] = {}
        for tensor in self.tensors:
            sizes[tensor.kind] = sizes.get(tensor.kind, 0) + prod(tensor.shape)
        return max(sizes, key=lambda kind: sizes[kind]).name if sizes else ""


class _Damaged(Exception):
    """What is wrong, in words that continue "is damaged: ..."."""


class _Bytes:
    """Reads values one after the other, and never past the end."""

    def __init__(self, data: mmap.mmap | bytes, size: int) -> None:
        self._data = data
        self._size = size
        self.position = 0

    @property
    def left(self) -> int:
        return self._size - self.position

    def skip(self, count: int) -> int:
        """Go past so many bytes; where they begin."""
        start = self.position
        if count > self.left:
            raise _Damaged("it ends in the middle of its header")
        self.position += count
        return start

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack_from(form, self._data, self.skip(struct.calcsize(form)))

    def number(self, form: str) -> Any:
        return self.unpack(form)[0]

    def count(self, smallest: int, form: str = "<Q") -> int:
        """How many things follow, each of which takes `smallest` bytes or more."""
        count: int = self.number(form)
        if count * smallest > self.left:
            raise _Damaged("it states more than it holds")
        return count

    def text(self) -> str:
        length = self.count(1)
        start = self.skip(length)
        try:
            return self._data[start : start + length].decode()
        except UnicodeDecodeError:
            raise _Damaged("a name in it is not text") from None

    def skip_texts(self, count: int) -> None:
        """Go past so many texts: hundreds of thousands, in a vocabulary, so without a call for each."""
        data, position, last = self._data, self.position, self._size - 8
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position > last:
                raise _Damaged("it ends in the middle of its header")
            position += 8 + length_at(data, position)[0]
        self.skip(position - self.position)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_facts(path: Path) -> dict[str, Any]:
    """The metadata at the beginning of a file, as far as it stands before the vocabulary: quick, and unchecked.

    Raises:
        IncompleteModelError: it is no GGUF file, or cannot be opened.
    """
    facts: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            beginning = file.read(_FACTS_BYTES)
        data = _Bytes(beginning, len(beginning))
        _, kept = _read_counts(data)
        for key, value in _read_metadata(data, kept):
            if key.startswith("tokenizer."):
                break
            facts[key] = value
    except (_Damaged, struct.error, ValueError) as error:
        if not facts:
            raise _damaged(path, error) from None
    except OSError as error:
        raise _damaged(path, error) from None
    return facts


def read_header(path: Path) -> GgufHeader:
    """All metadata and the table of tensors, checked against the file's size.

    Raises:
        IncompleteModelError: the file is damaged or cut off.
        UnsupportedModelError: it is whole, and of a version or with a number format that is not read here.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            data = _Bytes(content, len(content))
            tensor_count, metadata_count = _read_counts(data)
            metadata = {}
            for key, value in _read_metadata(data, metadata_count):
                if key in metadata:
                    raise _Damaged(f"it states {key} twice")
                metadata[key] = value
            tensors = tuple(_read_tensors(data, tensor_count, metadata.get("general.alignment", 32)))
    except (_Damaged, struct.error, ValueError, OSError) as error:
        raise _damaged(path, error) from None
    return GgufHeader(path, metadata, tensors)


def _read_counts(data: _Bytes) -> tuple[int, int]:
    """(tensors, metadata), from the first 24 bytes."""
    magic, version = data.unpack("<4sI")
    if magic != MAGIC:
        raise _Damaged("it does not begin as a GGUF file does")
    if version not in _VERSIONS:
        if version & 0xFFFF == 0:
            raise UnsupportedModelError("This GGUF file is for big-endian machines. Get the usual little-endian one.")
        raise UnsupportedModelError(
            f"This GGUF file is of version {version}; versions 2 and 3 are read here. Get it in a newer one."
        )
    tensors, metadata = data.unpack("<QQ")
    return int(tensors), int(metadata)


def _read_metadata(data: _Bytes, count: int) -> Iterator[tuple[str, Any]]:
    for _ in range(count):
        key = data.text()
        yield key, _read_value(data, _kind(GGUFValueType, data.number("<I")))


def _read_value(data: _Bytes, kind: GGUFValueType) -> Any:
    if kind in _SCALARS:
        return data.number(_SCALARS[kind])
    if kind == GGUFValueType.STRING:
        return data.text()
    element = _kind(GGUFValueType, data.number("<I"))
    if element in _SCALARS:
        form = _SCALARS[element][1]
        count = data.count(struct.calcsize(f"<{form}"))
        if count > _KEPT_NUMBERS:
            data.skip(count * struct.calcsize(f"<{form}"))
            return count
        return list(data.unpack(f"<{count}{form}"))
    if element != GGUFValueType.STRING:
        raise _Damaged("it holds lists of lists")
    count = data.count(8)
    data.skip_texts(count)
    return count


def _read_tensors(data: _Bytes, count: int, alignment: Any) -> Iterator[StoredTensor]:
    """The tensors, each of which has to begin where the one before it ends."""
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise _Damaged(f"its alignment is {alignment!r}")
    if count * 32 > data.left:
        raise _Damaged("it states more tensors than it holds")
    table = [_read_tensor(data) for _ in range(count)]
    data.skip(-data.position % alignment if table else 0)
    expected, beginning = 0, data.position
    names = set()
    for name, shape, kind, offset in table:
        size = _stored_bytes(name, shape, kind)
        if offset != expected or name in names:
            raise _Damaged(f"its tensor {name} is not where it should be")
        names.add(name)
        if offset + size > data.left:
            raise _Damaged(f"it ends before its tensor {name} does")
        yield StoredTensor(name, shape, kind, beginning + offset, size)
        expected = offset + -(-size // alignment) * alignment


def _read_tensor(data: _Bytes) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name = data.text()
    dimensions = data.number("<I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise _Damaged(f"its tensor {name} has {dimensions} dimensions")
    shape = tuple(reversed(data.unpack(f"<{dimensions}Q")))
    kind, offset = data.unpack("<IQ")
    return name, shape, _kind(GGMLQuantizationType, kind), offset


def _stored_bytes(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    if kind not in GGML_QUANT_SIZES:
        raise UnsupportedModelError(f"This GGUF file has weights of type {kind.name}, which cannot be read here.")
    block, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise _Damaged(f"the rows of its tensor {name} are no whole blocks")
    return prod(shape) // block * size


def _kind(kinds: Any, number: int) -> Any:
    try:
        return kinds(number)
    except ValueError:
        raise _Damaged(f"it holds something of type {number}, which there is not") from None


def _damaged(path: Path, error: Exception) -> IncompleteModelError:
    if isinstance(error, OSError):
        return IncompleteModelError(f"{path} cannot be read: {error.strerror or error}.")
    return IncompleteModelError(f"{path} is damaged or was not copied to its end: {error}. Copy or download it again.")


def file_type(metadata: Mapping[str, Any]) -> str:
    """The quantization that a file says it has, as llama.cpp names it ("Q4_K_M"); "" where it does not say."""
    try:
        name = LlamaFileType(metadata.get("general.file_type", -1)).name
    except ValueError:
        return ""
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def packed_as(path: Path) -> str:
    """The quantization of a GGUF file's weights, as llama.cpp names it; "" where they are plain numbers."""
    header = read_header(path)
    if all(GGML_QUANT_SIZES[tensor.kind][0] == 1 for tensor in header.tensors):
        return ""
    return file_type(header.metadata) or header.quantization
