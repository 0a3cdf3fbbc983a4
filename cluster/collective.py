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

_CHUNK_BYTES, _GENTLE_CHUNK_BYTES = 8 * 2**20, 2**20
"""Bytes that each device sends at once; in a gentle transfer fewer, as steps wait for each chunk."""
_MIN_CHUNK_BYTES, _HEADER_BYTES, _PARTS_PER_OCTAVE = 2**16, 2**12, 8
"""The last chunk is one of few sizes, so that few programs are compiled: eighths between powers of two, and room for a
header, so that pages of round sizes fill it. At most an eighth of it is for nothing."""
_AHEAD = 2
"""Chunks under way: one is copied while another moves. A transfer takes so many of memory, at both ends.

A gentle one takes one at a time: a device runs its programs in order, so what waits for the other end keeps steps
waiting.
"""
_PAUSES, _GENTLE_S = 6.0, 10.0
"""How much longer than this thread's work on a chunk a gentle transfer pauses after it; in its first seconds only."""
_ALIGNMENT = 64
_HOST, _DEVICE = "host", "device"
_SPEC = PartitionSpec(_HOST, _DEVICE)


class Pair:
    """The devices of two hosts, and the programs that move chunks from the first to the second.

    Each device sends to the one with its number: shard to same shard. Both hosts must call, one `send`, one `receive`,
    with the same number of bytes and in the same order as for every other pair they are in. Not thread-safe.
    """

    def __init__(self, source: Sequence[jax.Device], target: Sequence[jax.Device], scratch: "_Scratch") -> None:
        """Pair the devices up, with memory that other pairs use, too; nothing is compiled or connected yet."""
        self._mesh = Mesh(np.array([source, target]), (_HOST, _DEVICE), axis_types=(AxisType.Auto,) * 2)
        self._sharding = NamedSharding(self._mesh, _SPEC)
        self._own = [device for device in (*source, *target) if device.process_index == jax.process_index()]
        self._moves: dict[int, jax.stages.Compiled] = {}
        self._scratch = scratch

    def send(self, parts: Sequence[memoryview], *, is_gentle: bool) -> None:
        """Send a buffer that lies in parts, chunk by chunk; returns once the other side has it."""
        content, moving = [np.frombuffer(part, np.uint8) for part in parts if len(part)], deque[jax.Array]()
        for number, (start, size) in enumerate(self._paced(sum(map(len, content)), is_gentle)):
            staged = self._scratch.staged(number % _AHEAD, len(self._own) * size)  # what was in it has gone
            _gather(content, start, staged)
            moving.append(self._move(size)(self._placed(_put(staged, self._own))))
            if len(moving) == _ahead(is_gentle):
                jax.block_until_ready(moving.popleft())
        jax.block_until_ready(list(moving))

    def receive(self, num_bytes: int, *, is_gentle: bool) -> memoryview:
        """What the other side sends."""
        content, moving = np.empty(num_bytes, np.uint8), deque[tuple[int, jax.Array]]()  # not filled at first
        for start, size in self._paced(num_bytes, is_gentle):
            moving.append((start, self._move(size)(self._placed(self._scratch.nothing(size, self._own)))))
            if len(moving) == _ahead(is_gentle):
                _copy(*moving.popleft(), content)
        if len(moving) == 1 == len(self._own) and moving[0][0] == 0:  # all there is: it can stay where it came
            return np.asarray(moving[0][1].addressable_shards[0].data)[0, :num_bytes].data
        for chunk in moving:
            _copy(*chunk, content)
        return content.data

    def _paced(self, num_bytes: int, is_gentle: bool) -> Iterator[tuple[int, int]]:
        """The chunks, each once it is time for it; their programs are compiled before the first."""
        chunks = list(self._chunks(num_bytes, is_gentle))
        for _, size in chunks:
            self._move(size)
        until_s, work_s = time.monotonic() + _GENTLE_S, 0.0
        for chunk in chunks:
            if is_gentle and (left_s := until_s - time.monotonic()) > 0:
                time.sleep(min(left_s, _PAUSES * work_s))
            began_s = time.thread_time()
            yield chunk
            work_s = time.thread_time() - began_s

    def _chunks(self, num_bytes: int, is_gentle: bool) -> Iterator[tuple[int, int]]:
        """Where each chunk starts, and the bytes of one device in it; gentle ones are alike: little is compiled."""
        start, ways = 0, len(self._own)
        while start < num_bytes:
            left = -(-(num_bytes - start) // ways)
            size = _GENTLE_CHUNK_BYTES if is_gentle else min(_CHUNK_BYTES, _rounded_up(left))
            yield start, size
            start += ways * size

    def _placed(self, pieces: Sequence[jax.Array]) -> jax.Array:
        """A chunk with this host's row, a piece on each of its devices."""
        shape = 2, sum(piece.size for piece in pieces)
        return jax.make_array_from_single_device_arrays(shape, self._sharding, pieces)

    def _move(self, size: int) -> jax.stages.Compiled:
        """The program for one size; compiled on the first use, beside the engine's steps."""
        if size not in self._moves:
            move = jax.shard_map(
                lambda chunk: jax.lax.ppermute(chunk, _HOST, [(0, 1)]), mesh=self._mesh, in_specs=_SPEC, out_specs=_SPEC
            )
            shape = jax.ShapeDtypeStruct((2, len(self._own) * size), np.uint8, sharding=self._sharding)
            self._moves[size] = jax.jit(move).lower(shape).compile()
        return self._moves[size]


class _Scratch:
    """Memory that all pairs of a process use in turn, kept because new memory is slow. Not thread-safe."""

    def __init__(self) -> None:
        self._staged = [np.empty(0, np.uint8)] * _AHEAD
        self._nothing: dict[int, list[jax.Array]] = {}

    def staged(self, number: int, num_bytes: int) -> np.ndarray:
        """Where a chunk is put together; aligned, so that a device that computes in host memory takes it as it is."""
        if len(self._staged[number]) < num_bytes:
            fresh = np.empty(num_bytes + _ALIGNMENT, np.uint8)
            self._staged[number] = fresh[-fresh.ctypes.data % _ALIGNMENT :]
        return self._staged[number][:num_bytes]

    def nothing(self, size: int, devices: Sequence[jax.Device]) -> list[jax.Array]:
        """What receivers put in: it is not looked at."""
        if size not in self._nothing:
            self._nothing[size] = _put(np.zeros(len(devices) * size, np.uint8), devices)
        return self._nothing[size]


def _put(content: np.ndarray, devices: Sequence[jax.Device]) -> list[jax.Array]:
    """An equal piece on each device, as a row."""
    rows = content.reshape(len(devices), 1, -1)
    return [jax.device_put(row, device, may_alias=True) for row, device in zip(rows, devices, strict=True)]


def _ahead(is_gentle: bool) -> int:
    return 1 if is_gentle else _AHEAD


def _rounded_up(num_bytes: int) -> int:
    """The smallest size of a last chunk that holds so many."""
    pages = max(_MIN_CHUNK_BYTES, num_bytes - _HEADER_BYTES)
    step = 2 ** (pages.bit_length() - 1) // _PARTS_PER_OCTAVE
    return -(-pages // step) * step + _HEADER_BYTES


def _gather(parts: Sequence[np.ndarray], start: int, out: np.ndarray) -> None:
    """Fill `out` with what the parts come to together, from `start` on; beyond their end it stays as it is."""
    for part in parts:
        taken = part[start : start + len(out)]
        out[: len(taken)] = taken
        out, start = out[len(taken) :], max(0, start - len(part))


def _copy(start: int, chunk: jax.Array, content: np.ndarray) -> None:
    """Put a chunk that has come where it belongs."""
    for shard in sorted(chunk.addressable_shards, key=lambda shard: shard.index[1].start or 0):
        came = np.asarray(shard.data)[0]
        out = content[start : start + len(came)]
        out[:] = came[: len(out)]
        start += len(came)


class WorldLinks:
    """The pairs of this process with others of the shared world, each formed on first use. Not thread-safe."""

    def __init__(self, process_of: Callable[[HostName], int]) -> None:
        """Find hosts in the world by the number of their leader's process."""
        self._process_of = process_of
        self._pairs: dict[tuple[int, int], Pair] = {}
        self._scratch = _Scratch()

    def to(self, target: HostName) -> Pair:
        """The pair in which this process sends."""
        return self._pair(jax.process_index(), self._process_of(target))

    def of(self, source: HostName) -> Pair:
        """The pair in which this process receives."""
        return self._pair(self._process_of(source), jax.process_index())

    def _pair(self, source: int, target: int) -> Pair:
        if (source, target) not in self._pairs:
            ends = [world.devices_of(range(process, process + 1)) for process in (source, target)]
            self._pairs[source, target] = Pair(ends[0], ends[1], self._scratch)
        return self._pairs[source, target]
