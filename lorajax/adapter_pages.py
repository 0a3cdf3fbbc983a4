"""The adapter page format on the host. Owns: how low-rank updates lie in pages, and how pages lie in a buffer.

Does not: read files (checkpoints/peft.py does), decide who keeps an adapter, or know JAX.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import xxhash

from lorajax.errors import CorruptAdapter, UnsupportedAdapter
from lorajax.spec import ROWS_PER_PAGE, TARGETS, AdapterSpec, ModelSpec, Target, Version, num_rank_pages

type Module = tuple[int, Target]
"""One linear layer of the base: (layer, target)."""

DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16))
}
"""The dtypes pages may have, by the names that `EngineConfig.dtype` uses."""

_FORMAT = "lorajax-adapter-2"
_ALIGNMENT = 64
_PREFIX_BYTES = 8
Checksum = xxhash.xxh3_128
"""What a buffer ends with, of all before it: against damage on the way; it does not prove who made the buffer."""
CHECKSUM_BYTES = Checksum().digest_size


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """The update `scale * b @ a` of one linear layer: a[row, in], b[out, row], in any of `DTYPES`."""

    a: np.ndarray
    b: np.ndarray
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAdapter:
    """One adapter as it lies in host memory and on the wire: pages of 8 rank rows, alpha / rank folded into B."""

    spec: AdapterSpec
    a: Mapping[Target, np.ndarray]
    """a[layer, page, 8, in] in the model's dtype; a target the adapter does not change is absent."""
    b: Mapping[Target, np.ndarray]
    """b[layer, page, 8, out]"""


def pack(
    updates: Mapping[Module, LowRank], *, model: ModelSpec, version: Version, dtype: np.dtype = DTYPES["float32"]
) -> HostAdapter:
    """Lay updates out in pages; rows past a layer's own rank, and layers without an update, are zero.

    The scale is folded into B in float32, and each value is rounded once, to `dtype`.
    Raises: ValueError if `updates` is empty or of another shape than `model`; UnsupportedAdapter if a value
    overflows `dtype`.
    """
    spec = _spec({module: update.rank for module, update in updates.items()}, model, version, dtype)
    a, b = {}, {}
    for target in spec.targets:
        width_in, width_out = model.widths(target)
        rows = (model.num_layers, spec.num_pages * ROWS_PER_PAGE)
        a[target], b[target] = np.zeros((*rows, width_in), dtype), np.zeros((*rows, width_out), dtype)
    for (layer, target), update in updates.items():
        where = f"layer {layer} {target}"
        a[target][layer, : update.rank] = _rounded(update.a.astype(np.float32), dtype, f"{where} A")
        folded = update.b.T.astype(np.float32) * np.float32(update.scale)
        b[target][layer, : update.rank] = _rounded(folded, dtype, f"{where} B * {update.scale:g}")
    return HostAdapter(spec=spec, a=_paged(a), b=_paged(b))


def _spec(ranks: Mapping[Module, int], model: ModelSpec, version: Version, dtype: np.dtype) -> AdapterSpec:
    if not ranks:
        raise ValueError("an adapter needs at least one update; got none")
    rank = max(ranks.values())
    targets = tuple(target for target in TARGETS if any(target == changed for _, changed in ranks))
    values_per_row = model.num_layers * sum(sum(model.widths(target)) for target in targets)
    num_bytes = num_rank_pages(rank) * ROWS_PER_PAGE * values_per_row * dtype.itemsize
    return AdapterSpec(version=version, rank=rank, targets=targets, num_bytes=num_bytes)


def _rounded(values: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = values.astype(dtype)
    if not np.isfinite(rounded).all():
        raise UnsupportedAdapter(f"{where} does not fit {dtype.name}; scale it down or serve in a wider dtype")
    return rounded


def _paged(rows: Mapping[Target, np.ndarray]) -> dict[Target, np.ndarray]:
    return {
        target: values.reshape(values.shape[0], -1, ROWS_PER_PAGE, values.shape[-1]) for target, values in rows.items()
    }


def unpack(adapter: HostAdapter) -> dict[Module, LowRank]:
    """The float32 update of every layer of every target the adapter has, `spec.rank` rows each, the scale left in B."""
    rank, updates = adapter.spec.rank, {}
    for target in adapter.spec.targets:
        for layer, (a, b) in enumerate(zip(adapter.a[target], adapter.b[target], strict=True)):
            rows_a, rows_b = (pages.reshape(-1, pages.shape[-1])[:rank].astype(np.float32) for pages in (a, b))
            updates[layer, target] = LowRank(a=rows_a, b=rows_b.T)
    return updates


def _tensors(adapter: HostAdapter) -> Iterator[tuple[str, Target, np.ndarray]]:
    for target in adapter.spec.targets:
        yield "a", target, adapter.a[target]
        yield "b", target, adapter.b[target]


def pieces(adapter: HostAdapter) -> list[memoryview]:
    """What `to_bytes` joins: its content, and the checksum of that."""
    parts = content(adapter)
    return [*parts, memoryview(_checksum(parts))]


def content(adapter: HostAdapter) -> list[memoryview]:
    """What `to_bytes` joins, but for the checksum: bytes of a header, then the pages where they lie."""
    spec = adapter.spec
    header = {
        "format": _FORMAT,
        "version": spec.version,
        "rank": spec.rank,
        "dtype": adapter.a[spec.targets[0]].dtype.name,
        "tensors": [(side, target, pages.shape) for side, target, pages in _tensors(adapter)],
    }
    text = json.dumps(header).encode()
    text += b" " * (-(_PREFIX_BYTES + len(text)) % _ALIGNMENT)  # so that the receiver can use the pages where they lie
    pages = [np.ascontiguousarray(pages).reshape(-1).view(np.uint8).data for _, _, pages in _tensors(adapter)]
    return [memoryview(len(text).to_bytes(_PREFIX_BYTES, "little")), memoryview(text), *pages]


def _checksum(parts: Iterable[memoryview]) -> bytes:
    found = Checksum()
    for part in parts:
        found.update(part)
    return found.digest()


def to_bytes(adapter: HostAdapter) -> bytes:
    """The adapter as one self-describing buffer: header length, JSON header, raw pages, XXH3 checksum of all that."""
    return b"".join(pieces(adapter))


def from_bytes(
    buffer: bytes | bytearray | memoryview, expect: Version | None = None, *, checksum: bytes | None = None
) -> HostAdapter:
    """The adapter in a buffer that `to_bytes` made; its arrays are views of the buffer, so nothing is copied.

    `checksum` is that of what came before the buffer's own, where it was taken on the way.
    Raises: CorruptAdapter if the buffer is not what was sent, or holds another version than `expect`.
    """
    view = memoryview(buffer).toreadonly().cast("B")
    if len(view) < _PREFIX_BYTES + CHECKSUM_BYTES:
        raise CorruptAdapter(f"an adapter buffer of {len(view)} bytes is too short to be one; send it again")
    body = view[:-CHECKSUM_BYTES]
    if (checksum or _checksum([body])) != view[-CHECKSUM_BYTES:]:
        raise CorruptAdapter(f"the checksum of an adapter buffer of {len(view)} bytes is wrong; send it again")
    try:
        adapter = _parsed(body)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptAdapter(f"not a {_FORMAT} buffer ({error!r}); both ends must run the same lorajax") from error
    if expect is not None and adapter.spec.version != expect:
        raise CorruptAdapter(f"the buffer holds adapter version {adapter.spec.version}; wanted {expect}")
    return adapter


def _parsed(content: memoryview) -> HostAdapter:
    start = _PREFIX_BYTES + int.from_bytes(content[:_PREFIX_BYTES], "little")
    header = json.loads(bytes(content[_PREFIX_BYTES:start]))
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']!r}")
    dtype, first = DTYPES[header["dtype"]], start
    sides: dict[str, dict[Target, np.ndarray]] = {"a": {}, "b": {}}
    for side, target, shape in header["tensors"]:
        if target not in TARGETS:
            raise ValueError(f"target {target!r}")
        count = math.prod(shape)
        sides[side][target] = np.frombuffer(content, dtype, count, start).reshape(shape)
        start += count * dtype.itemsize
    if start != len(content):
        raise ValueError(f"{len(content) - start} bytes too many")
    targets = tuple(target for target in TARGETS if target in sides["a"])
    spec = AdapterSpec(
        version=Version(header["version"]), rank=header["rank"], targets=targets, num_bytes=len(content) - first
    )
    if sides["b"].keys() != sides["a"].keys() or any(
        pages.ndim != 4 or pages.shape[1:3] != (spec.num_pages, ROWS_PER_PAGE)
        for side in sides.values()
        for pages in side.values()
    ):
        raise ValueError("pages that do not fit the rank")
    return HostAdapter(spec=spec, **sides)
