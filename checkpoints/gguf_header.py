"""GGUF files. Owns: their header, checked before any data is read, and the values of one tensor.

Does not: know what a key or a tensor is for, or how blocks are quantised (the `gguf` package does). The package's own
reader makes several numpy arrays for each word of the vocabulary, which made up most of the time to load a small model,
and follows a hostile count past the end of the file.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import gguf
import numpy as np
from gguf import quants

from checkpoints.fields import brief, check_regular
from lorajax.errors import MalformedCheckpoint, UnsupportedModel

_VERSIONS: Final = (2, 3)
_MAX_AXES: Final = 4
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Value types of the format, by number, as `struct` codes."""
_FLOAT32: Final = 6
_STRING: Final = 8
_ARRAY: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """What a header says of one tensor, checked."""

    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    """Slowest axis first, as numpy and Hugging Face have it."""
    offset: int
    """Bytes from the start of the file."""
    num_bytes: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """Metadata and tensors of one file. Immutable; holds no file open."""

    path: Path
    metadata: Mapping[str, object]
    """Numbers, strings, and lists of them, by key."""
    tensors: Mapping[str, GgufTensor]

    def read(self, name: str) -> np.ndarray:
        """Values of one tensor in float32.

        Raises: UnsupportedModel for a quantisation that the gguf package cannot read; MalformedCheckpoint if the file
            was cut short after it was opened.
        """
        tensor = self.tensors[name]
        raw = np.fromfile(self.path, np.uint8, count=tensor.num_bytes, offset=tensor.offset)
        if raw.size != tensor.num_bytes:
            raise MalformedCheckpoint(f"{self.path.name}: tensor {brief(name)}: the file changed after it was checked")
        try:
            values: np.ndarray = quants.dequantize(raw.reshape(*tensor.shape[:-1], -1), tensor.kind)
        except NotImplementedError:
            raise UnsupportedModel(
                f"{self.path.name}: tensor {brief(name)} is {tensor.kind.name}, which the gguf package cannot read"
            ) from None
        return values


def open_gguf(path: Path) -> GgufFile:
    """Check and read the header of a GGUF file; no tensor data is read.

    Raises: MalformedCheckpoint naming what is broken; UnsupportedModel for another version of the format.
    """
    check_regular(path)
    if path.stat().st_size < 24:
        raise MalformedCheckpoint(f"{path.name}: {path.stat().st_size} bytes are no GGUF file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _read(path, _Cursor(data))
        except (struct.error, OverflowError):
            raise MalformedCheckpoint(f"{path.name}: truncated: its header goes past its {len(data)} bytes") from None
        except ValueError as error:
            raise MalformedCheckpoint(f"{path.name}: {error}") from None


@final
class _Cursor:
    """Reads a header from front to back.

    Invariant: `at` never goes back, so a hostile count ends at the end of the file. Owner: `open_gguf`.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalars(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        """The next `count` numbers of one type; struct.error past the end."""
        size = struct.calcsize(f"<{code}") * count
        if size > len(self.data) - self.at:
            raise struct.error
        self.at += size
        return struct.unpack_from(f"<{count}{code}", self.data, self.at - size)

    def whole(self, code: str) -> int:
        """The next number, of an integer type."""
        return int(self.scalars(code, 1)[0])

    def text(self) -> str:
        """The next string; ValueError if it is not UTF-8."""
        length = self.whole("Q")
        raw = self.data[self.at : self.at + length]
        if len(raw) < length:
            raise struct.error
        self.at += length
        return raw.decode()

    def value(self) -> object:
        """The next value with its type before it; ValueError for a type that is none."""
        kind = self.whole("I")
        if kind == _ARRAY:
            inner, count = self.whole("I"), self.whole("Q")
            return [self.text() for _ in range(count)] if inner == _STRING else list(self.scalars(_code(inner), count))
        if kind == _STRING:
            return self.text()
        value = self.scalars(_code(kind), 1)[0]
        # 1e-05 in float32 reads as 9.999999747378752e-06; the shortest decimal is what was meant.
        return float(str(np.float32(value))) if kind == _FLOAT32 else value


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"value type {kind} is none of the format's")
    return _SCALARS[kind]


def _read(path: Path, cursor: _Cursor) -> GgufFile:
    magic, version = cursor.data[:4], struct.unpack_from("<I", cursor.data, 4)[0]
    if magic != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if version not in _VERSIONS:
        raise UnsupportedModel(f"{path.name}: GGUF version {version} or byte order; we read {_VERSIONS}, little endian")
    cursor.at = 8
    num_tensors, num_keys = cursor.whole("Q"), cursor.whole("Q")
    metadata: dict[str, object] = {}
    for _ in range(num_keys):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"key {brief(key)} is there twice")
        metadata[key] = cursor.value()
    infos = [_info(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {brief(alignment)}; it must be a number above 0")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise ValueError(f"tensor {brief(name)} is there twice")
        tensors[name] = _tensor(name, shape, kind, start + offset)
        if tensors[name].offset + tensors[name].num_bytes > len(cursor.data):
            raise ValueError(f"truncated: tensor {brief(name)} goes past its {len(cursor.data)} bytes")
    return GgufFile(path=path, metadata=MappingProxyType(metadata), tensors=MappingProxyType(tensors))


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape, kind, offset) of the next tensor."""
    name, num_axes = cursor.text(), cursor.whole("I")
    if not 1 <= num_axes <= _MAX_AXES:
        raise ValueError(f"tensor {brief(name)} has {num_axes} axes; want 1 to {_MAX_AXES}")
    shape = tuple(int(size) for size in reversed(cursor.scalars("Q", num_axes)))
    return name, shape, cursor.whole("I"), cursor.whole("Q")


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
    try:
        known = gguf.GGMLQuantizationType(kind)
    except ValueError:
        raise ValueError(f"tensor {brief(name)} has type {kind}, which the gguf package does not know") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[known]
    if not math.prod(shape) or shape[-1] % block:
        raise ValueError(f"tensor {brief(name)} has shape {list(shape)}; {known.name} wants rows of whole {block}s")
    return GgufTensor(kind=known, shape=shape, offset=offset, num_bytes=math.prod(shape) // block * block_bytes)
