"""Adapter bytes between two hosts by a collective. Owns: the permute, and when a pair of hosts has stopped working.

Does not: decide who sends what when (cluster/tickets.py), or check contents (`from_bytes` does).
On GPUs the permute is NCCL's, over GPUDirect RDMA where the fabric has it; on CPUs it is Gloo's.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cluster import world
from cluster.view import HostName

CHUNK_BYTES = 8 * 2**20
"""Bytes that each device sends at once: what a transfer takes of device memory, at both ends."""
_HOST, _DEVICE = "host", "device"
_SPEC = PartitionSpec(_HOST, _DEVICE)


class Pair:
    """The devices of two hosts, and the program that moves a chunk from the first to the second.

    Each device sends to the one with its number: shard to same shard. Both hosts must call, one `send`, one `receive`,
    with the same number of bytes and in the same order as for every other pair they are in.
    """

    def __init__(self, source: Sequence[jax.Device], target: Sequence[jax.Device]) -> None:
        """Pair the devices up; nothing is compiled or connected yet."""
        self._mesh = Mesh(np.array([source, target]), (_HOST, _DEVICE), axis_types=(AxisType.Auto,) * 2)
        self._sharding = NamedSharding(self._mesh, _SPEC)
        self._own = [device for device in (*source, *target) if device.process_index == jax.process_index()]
        self._shape = (2, len(source) * CHUNK_BYTES)

    def send(self, buffer: bytes | memoryview) -> None:
        """Send a buffer, chunk by chunk; returns once the other side has it."""
        content = np.frombuffer(buffer, np.uint8)
        for start in range(0, len(content), self._shape[1]):
            jax.block_until_ready(self._move(self._placed(content[start : start + self._shape[1]])))

    def receive(self, num_bytes: int) -> bytearray:
        """What the other side sends."""
        buffer = bytearray(num_bytes)
        content = np.frombuffer(buffer, np.uint8)
        for index in range(math.ceil(num_bytes / self._shape[1])):
            chunk = self._move(self._placed(np.empty(0, np.uint8)))
            start = index * self._shape[1]
            for shard in sorted(chunk.addressable_shards, key=lambda shard: shard.index[1].start or 0):
                piece = content[start : start + CHUNK_BYTES]
                piece[:] = np.asarray(shard.data)[0, : len(piece)]
                start += CHUNK_BYTES
        return buffer

    def _placed(self, content: np.ndarray) -> jax.Array:
        """A chunk with this host's row, a piece on each of its devices; what there is none of is zeros."""
        pieces = []
        for index, device in enumerate(self._own):
            piece = content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            if len(piece) < CHUNK_BYTES:
                piece = np.pad(piece, (0, CHUNK_BYTES - len(piece)))
            pieces.append(jax.device_put(piece[None], device))
        return jax.make_array_from_single_device_arrays(self._shape, self._sharding, pieces)

    @cached_property
    def _move(self) -> jax.stages.Compiled:
        move = jax.shard_map(
            lambda chunk: jax.lax.ppermute(chunk, _HOST, [(0, 1)]), mesh=self._mesh, in_specs=_SPEC, out_specs=_SPEC
        )
        shape = jax.ShapeDtypeStruct(self._shape, np.uint8, sharding=self._sharding)
        return jax.jit(move).lower(shape).compile()


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
