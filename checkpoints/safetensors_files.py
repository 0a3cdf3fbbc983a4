"""Tensors of one or many .safetensors files, read one by one. Owns: the check of headers before any data is read.

Does not: know what a tensor is for. Tensors are read, not mapped: a file that is cut short under a memory map kills
the process with SIGBUS, and a broken adapter must never harm another request.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import ml_dtypes
import numpy as np

from checkpoints.fields import brief, check_regular, parse_object
from lorajax.errors import MalformedCheckpoint

MAX_HEADER_BYTES: Final = 4 * 2**20
"""Largest header that is parsed; a file of 8192 tensors needs less than 1.5 MiB."""
MAX_AXES: Final = 8

_DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """What a header says of one tensor, checked."""

    dtype: str
    """F32, F16 or BF16."""
    shape: tuple[int, ...]
    file: int
    """Which of the opened files holds it."""
    offset: int
    """Bytes from the start of that file."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One opened file, and what tells it from another of the same path."""

    path: Path
    identity: tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True)
class TensorFiles:
    """Tensors of a set of files, by name. Immutable; holds no file open; safe to read from several threads."""

    entries: Mapping[str, TensorEntry]
    _files: tuple[_File, ...]

    @classmethod
    def open(cls, paths: Sequence[Path], *, max_tensors: int = 8192) -> "TensorFiles":
        """Check the headers of all files; no tensor data is read.

        Cost: at most MAX_HEADER_BYTES read per file.
        Raises: MalformedCheckpoint with the file's and the tensor's name: not a regular file, truncated, trailing or
            unclaimed bytes, overlaps, a header that is too large or not in the format, more than `max_tensors` tensors,
            a dtype other than F32, F16 and BF16, a name in two files.
        """
        entries: dict[str, TensorEntry] = {}
        files = []
        for number, path in enumerate(paths):
            file, header, data_start = _open_file(path)
            files.append(file)
            if len(entries) + len(header) > max_tensors:
                raise MalformedCheckpoint(f"{path.name}: more than {max_tensors} tensors; refused unread")
            for name, entry in _entries(header, number, path.name, (data_start, file.identity[0])):
                if name in entries:
                    other = paths[entries[name].file].name
                    raise MalformedCheckpoint(f"{path.name}: tensor {brief(name)} is in {other} too")
                entries[name] = entry
        return cls(MappingProxyType(entries), tuple(files))

    def read(self, name: str) -> np.ndarray:
        """Values of one tensor, in its own shape and dtype (bfloat16 by ml_dtypes).

        Raises: KeyError for an unknown name; MalformedCheckpoint if the file is not the one that was opened, or was
            cut short meanwhile.
        """
        entry = self.entries[name]
        file = self._files[entry.file]
        try:
            with file.path.open("rb") as data:
                is_same = _identity(data.fileno()) == file.identity
                values = np.fromfile(data, np.uint8, count=entry.num_bytes, offset=entry.offset)
        except OSError as error:
            raise MalformedCheckpoint(f"{file.path.name}: tensor {brief(name)}: {error.strerror}") from None
        if not is_same or values.size != entry.num_bytes:
            raise MalformedCheckpoint(f"{file.path.name}: tensor {brief(name)}: the file changed after it was checked")
        return values.view(_DTYPES[entry.dtype]).reshape(entry.shape)


def _identity(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ino


def _open_file(path: Path) -> tuple[_File, dict[str, object], int]:
    """The file, its header without `__metadata__`, and where its data starts."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            identity = _identity(file.fileno())
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or 8 + length > identity[0]:
                raise MalformedCheckpoint(f"{path.name}: truncated: {identity[0]} bytes, header ends at {8 + length}")
            if length > MAX_HEADER_BYTES:
                raise MalformedCheckpoint(f"{path.name}: header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
            raw = file.read(length)
    except OSError as error:
        raise MalformedCheckpoint(f"{path.name}: {error.strerror}") from None
    if not raw.startswith(b"{"):
        raise MalformedCheckpoint(f"{path.name}: its header does not begin with '{{'; this is no safetensors file")
    header = parse_object(raw, path.name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MalformedCheckpoint(f"{path.name}: __metadata__ must map strings to strings")
    return _File(path=path, identity=identity), header, 8 + length


def _entries(
    header: Mapping[str, object], number: int, source: str, data: tuple[int, int]
) -> Iterator[tuple[str, TensorEntry]]:
    """Entries of one header in the order of their data, which must fill the file from `data[0]` to `data[1]`."""
    spans = [_span(name, info, source) for name, info in header.items()]
    end = data[0]
    for offsets, name, dtype, shape in sorted(spans):
        begin = data[0] + offsets[0]
        if begin != end:
            flaw = "overlaps the tensor before it" if begin < end else "leaves a hole before it"
            raise MalformedCheckpoint(f"{source}: tensor {brief(name)} {flaw}")
        entry = TensorEntry(dtype=dtype, shape=shape, file=number, offset=begin)
        end += entry.num_bytes
        if offsets[1] - offsets[0] != entry.num_bytes:
            raise MalformedCheckpoint(
                f"{source}: tensor {brief(name)} has {offsets[1] - offsets[0]} bytes; "
                f"{dtype} {list(shape)} takes {entry.num_bytes}"
            )
        yield name, entry
    if end != data[1]:
        flaw = "truncated" if end > data[1] else "trailing bytes"
        raise MalformedCheckpoint(f"{source}: {flaw}: {data[1]} bytes, its header describes {end}")


def _span(name: str, info: object, source: str) -> tuple[tuple[int, int], str, str, tuple[int, ...]]:
    """(offsets, name, dtype, shape) of one header entry, each of the right type and range."""
    where = f"{source}: tensor {brief(name)}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedCheckpoint(f"{where} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise MalformedCheckpoint(f"{where} has dtype {brief(dtype)}; want one of {', '.join(_DTYPES)}")
    if not _are_whole(shape, low=1) or len(shape) > MAX_AXES:
        raise MalformedCheckpoint(f"{where} has shape {brief(shape)}; want at most {MAX_AXES} numbers above 0")
    if not _are_whole(offsets, low=0) or len(offsets) != 2:
        raise MalformedCheckpoint(f"{where} has data_offsets {brief(offsets)}; want [begin, end]")
    return (offsets[0], offsets[1]), name, dtype, tuple(shape)


def _are_whole(values: object, *, low: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= low for value in values)
