"""Mesh axes, and the one table from logical axes to mesh axes. Owns: every PartitionSpec. Does not: hold arrays.

The step runs inside one `shard_map` over the `model` axis, so model code sees local shapes and says where it sums.
A logical axis that the mesh does not divide stays whole on every device: right answers first, savings where they fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lorajax.spec import ModelSpec, Target

REPLICA, MODEL = "replica", "model"

type Logical = Literal["heads", "mlp", "vocab"]
"""heads: key/value heads with their query groups. mlp: feed-forward columns. vocab: embedding rows."""


def make_mesh(devices: Sequence[jax.Device], tensor_parallel: int) -> Mesh:
    """Mesh of one replica over the first `tensor_parallel` devices.

    Raises: ValueError if there are fewer devices than asked for.
    """
    if len(devices) < tensor_parallel:
        raise ValueError(
            f"--tp {tensor_parallel} needs {tensor_parallel} devices, this process has {len(devices)}; "
            f"lower --tp, or on CPU set XLA_FLAGS=--xla_force_host_platform_device_count={tensor_parallel}"
        )
    grid = np.array(devices[:tensor_parallel]).reshape(1, tensor_parallel)
    return Mesh(grid, (REPLICA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which logical axes are split over the `model` mesh axis for one model on one mesh."""

    mesh: Mesh
    sharded: frozenset[Logical]

    @classmethod
    def of(cls, spec: ModelSpec, mesh: Mesh) -> "Layout":
        """Split every logical axis that the mesh divides."""
        sizes: dict[Logical, int] = {
            "heads": spec.num_kv_heads,
            "mlp": spec.intermediate_size,
            "vocab": spec.vocab_size,
        }
        ways = mesh.shape[MODEL]
        return cls(mesh=mesh, sharded=frozenset(name for name, size in sizes.items() if size % ways == 0))

    def ways(self, logical: Logical) -> int:
        """Devices that share this axis: 1 where it stays whole."""
        return int(self.mesh.shape[MODEL]) if logical in self.sharded else 1

    def split(self, logical: Logical) -> str | None:
        """Mesh axis for one logical axis, None where it stays whole."""
        return MODEL if logical in self.sharded else None

    def weight(self, name: str) -> PartitionSpec:
        """PartitionSpec of a weight by its dotted name, such as `layers.3.attn.qkv`."""
        heads, mlp, vocab = self.split("heads"), self.split("mlp"), self.split("vocab")
        table = {
            "embed": PartitionSpec(vocab, None),
            "head": PartitionSpec(None, vocab),
            "attn.qkv": PartitionSpec(None, heads, None, None),
            "attn.qkv_bias": PartitionSpec(heads, None, None),
            "attn.out": PartitionSpec(heads, None),
            "mlp.gate_up": PartitionSpec(None, None, mlp),
            "mlp.down": PartitionSpec(mlp, None),
        }
        return table.get(name.split(".", 2)[-1] if name.startswith("layers.") else name, PartitionSpec())

    def adapter(self, target: Target) -> tuple[PartitionSpec, PartitionSpec]:
        """PartitionSpecs of a[page, row, in] and b[page, row, out] of one target.

        Column-parallel layers split B's columns; row-parallel layers split A's columns and keep B whole, so that
        their update is a partial sum like the base's and rides on the same reduction.
        """
        whole = PartitionSpec()
        axis = self.split("mlp" if target in ("gate_proj", "up_proj", "down_proj") else "heads")
        split = PartitionSpec(None, None, axis)
        return (split, whole) if target in ("o_proj", "down_proj") else (whole, split)

    def kv(self) -> PartitionSpec:
        """PartitionSpec of kv[page, token, 2, kv_head, head_dim]."""
        return PartitionSpec(None, None, None, self.split("heads"), None)

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """NamedSharding of a PartitionSpec on this mesh."""
        return NamedSharding(self.mesh, spec)

    def total(self, x: jax.Array, logical: Logical) -> jax.Array:
        """Sum of the devices' partial results over a logical axis; `x` itself where the axis is whole."""
        return jax.lax.psum(x, MODEL) if self.ways(logical) > 1 else x

    def gathered(self, x: jax.Array, logical: Logical) -> jax.Array:
        """All devices' pieces of the last axis, in order; `x` itself where the axis is whole."""
        return jax.lax.all_gather(x, MODEL, axis=x.ndim - 1, tiled=True) if self.ways(logical) > 1 else x

    def index(self, logical: Logical) -> jax.Array | int:
        """Place of this device along a logical axis."""
        return jax.lax.axis_index(MODEL) if self.ways(logical) > 1 else 0
