"""Adapter bytes between two hosts by a collective. Owns: the permute, and when a pair of hosts has stopped working.

Does not: decide who sends what when (cluster/tickets.py), or check contents (`from_bytes` does).
On GPUs the permute is NCCL's, over GPUDirect RDMA where the fabric has it; on CPUs it is Gloo's.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cluster import world
from cluster.view import HostName

CHUNK_BYTES = (8 * 2**20, 4 * 2**20, 2 * 2**20, 2**20)
"""Bytes that each device sends at once; several sizes, so that the last of a transfer is mostly full."""
_AHEAD = 2
"""Chunks under way: one is copied while another moves. A transfer takes so many of device memory, at both ends.

A gentle one takes one of the smallest at a time: a device runs its programs in order, so what waits for the other end
keeps steps waiting.
"""
_PAUSES, _GENTLE_S = 6.0, 10.0
"""How much longer than this thread's work on a chunk a gentle transfer pauses after it; in its first seconds only."""
_HOST, _DEVICE = "host", "device"
_SPEC = PartitionSpec(_HOST, _DEVICE)


class Pair:
    """The devices of two hosts, and the programs that move chunks from the first to the second.

    Each device sends to the one with its number: shard to same shard. Both hosts must call, one `send`, one `receive`,
    with the same number of bytes and in the same order as for every other pair they are in. Not thread-safe.
    """

    def __init__(self, source: Sequence[jax.Device], target: Sequence[jax.Device]) -> None:
        """Pair the devices up; nothing is compiled or connected yet."""
        self._mesh = Mesh(np.array([source, target]), (_HOST, _DEVICE), axis_types=(AxisType.Auto,) * 2)
        self._sharding = NamedSharding(self._mesh, _SPEC)
        self._own = [device for device in (*source, *target) if device.process_index == jax.process_index()]
        self._moves: dict[int, jax.stages.Compiled] = {}
        self._zeros: dict[int, jax.Array] = {}

    def send(self, parts: Sequence[memoryview], *, is_gentle: bool) -> None:
        """Send a buffer that lies in parts, chunk by chunk; returns once the other side has it."""
        content, moving = [np.frombuffer(part, np.uint8) for part in parts if len(part)], deque[jax.Array]()
        for start, size in self._paced(sum(map(len, content)), is_gentle):
            moving.append(self._move(size)(self._placed(_taken(content, start, len(self._own) * size), size)))
            if len(moving) == _ahead(is_gentle):
                jax.block_until_ready(moving.popleft())
        jax.block_until_ready(list(moving))

    def receive(self, num_bytes: int, *, is_gentle: bool) -> memoryview:
        """What the other side sends."""
        content, moving = np.empty(num_bytes, np.uint8), deque[tuple[int, int, jax.Array]]()  # not filled at first
        for start, size in self._paced(num_bytes, is_gentle):
            moving.append((start, size, self._move(size)(self._nothing(size))))
            if len(moving) == _ahead(is_gentle):
                _copy(*moving.popleft(), content)
        for chunk in moving:
            _copy(*chunk, content)
        return content.data

    def _paced(self, num_bytes: int, is_gentle: bool) -> Iterator[tuple[int, int]]:
        """The chunks, each once it is time for it; their programs are compiled before the first."""
        chunks = list(self._chunks(num_bytes, CHUNK_BYTES[-1:] if is_gentle else CHUNK_BYTES))
        for size in {size for _, size in chunks}:
            self._move(size)
        until_s, work_s = time.monotonic() + _GENTLE_S, 0.0
        for chunk in chunks:
            if is_gentle and (left_s := until_s - time.monotonic()) > 0:
                time.sleep(min(left_s, _PAUSES * work_s))
            began_s = time.thread_time()
            yield chunk
            work_s = time.thread_time() - began_s

    def _chunks(self, num_bytes: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Where each chunk starts, and the bytes of one device in it: the largest that fits, then smaller ones."""
        start, ways = 0, len(self._own)
        while start < num_bytes:
            left = -(-(num_bytes - start) // ways)
            size = next((size for size in sizes if size <= left), sizes[-1])
            yield start, size
            start += ways * size

    def _placed(self, content: np.ndarray, size: int) -> jax.Array:
        """A chunk with this host's row, a piece on each of its devices; what there is none of is zeros."""
        pieces = []
        for index, device in enumerate(self._own):
            piece = content[index * size : (index + 1) * size]
            if len(piece) < size:
                piece = np.pad(piece, (0, size - len(piece)))
            pieces.append(jax.device_put(piece[None], device))
        return jax.make_array_from_single_device_arrays(self._shape(size), self._sharding, pieces)

    def _nothing(self, size: int) -> jax.Array:
        """What a receiver puts in: it is not looked at."""
        if size not in self._zeros:
            self._zeros[size] = self._placed(np.empty(0, np.uint8), size)
        return self._zeros[size]

    def _shape(self, size: int) -> tuple[int, int]:
        return 2, len(self._own) * size

    def _move(self, size: int) -> jax.stages.Compiled:
        """The program for one size; compiled on the first use, beside the engine's steps."""
        if size not in self._moves:
            move = jax.shard_map(
                lambda chunk: jax.lax.ppermute(chunk, _HOST, [(0, 1)]), mesh=self._mesh, in_specs=_SPEC, out_specs=_SPEC
            )
            shape = jax.ShapeDtypeStruct(self._shape(size), np.uint8, sharding=self._sharding)
            self._moves[size] = jax.jit(move).lower(shape).compile()
        return self._moves[size]


def _ahead(is_gentle: bool) -> int:
    return 1 if is_gentle else _AHEAD


def _taken(parts: Sequence[np.ndarray], start: int, size: int) -> np.ndarray:
    """Bytes of what the parts come to together; copied only where they lie in several."""
    found = []
    for part in parts:
        if start < len(part) and size > 0:
            found.append(part[start : start + size])
            size -= len(found[-1])
        start = max(0, start - len(part))
    return found[0] if len(found) == 1 else np.concatenate(found)


def _copy(start: int, size: int, chunk: jax.Array, content: np.ndarray) -> None:
    """Put a chunk that has come where it belongs."""
    for shard in sorted(chunk.addressable_shards, key=lambda shard: shard.index[1].start or 0):
        piece = content[start : start + size]
        piece[:] = np.asarray(shard.data)[0, : len(piece)]
        start += size


class WorldLinks:
    """The pairs of this process with others of the shared world, each formed on first use. Not thread-safe."""

    def __init__(self, process_of: Callable[[HostName], int]) -> None:
        """Find hosts in the world by the number of their leader's process."""
        self._process_of = process_of
        self._pairs: dict[tuple[int, int], Pair] = {}

    def to(self, target: HostName) -> Pair:
        """The pair in which this process sends."""
        return self._pair(jax.process_index(), self._process_of(target))

    def of(self, source: HostName) -> Pair:
        """The pair in which this process receives."""
        return self._pair(self._process_of(source), jax.process_index())

    def _pair(self, source: int, target: int) -> Pair:
        if (source, target) not in self._pairs:
            devices = (world.devices_of(range(process, process + 1)) for process in (source, target))
            self._pairs[source, target] = Pair(*devices)
        return self._pairs[source, target]
