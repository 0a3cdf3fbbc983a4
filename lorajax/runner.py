"""Step plans to token ids. Owns: the device state (weights, KV pages, adapter pages) and the compiled steps.

Does not: decide anything. All programs are compiled in `compile`, before the first plan; a plan only picks one.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lorajax.adapter_pages import HostAdapter
from lorajax.batch import Batch, Bucket, batch, buckets, example, fitting, table_pages
from lorajax.config import EngineConfig
from lorajax.draw import Draw
from lorajax.errors import UnsupportedModel
from lorajax.layers import rope_tables
from lorajax.lora import NO_ADAPTERS, Adapters, LayerAdapters
from lorajax.mesh import Layout
from lorajax.models.decoder import Cache, Step
from lorajax.models.registry import abstract, bind
from lorajax.plan import PageWrite, StepPlan
from lorajax.sampler import is_finite, most_likely
from lorajax.spec import ROWS_PER_PAGE, TARGETS, ModelSpec, Target, Token, Version
from pallas_kernels.ops import Ops, Page
from pallas_kernels.work import AttentionWork, LoraWork

COMPILER_THREAD = "compiler"

type Pools = dict[Target, Page]
"""Adapter pages by target, layer after layer: (a[layer * page, row, in], b[layer * page, row, out])."""

type HostPage = dict[Target, tuple[np.ndarray, np.ndarray]]
"""One page of an adapter on the host, by target: (a[layer, row, in], b[layer, row, out])."""

type Results = tuple[jax.Array, jax.Array, jax.Array]
"""What a step gives beside the KV pages: logits[sequence, vocab], greedy tokens[sequence], whether finite[sequence]."""

type Stepped = tuple[tuple[jax.Array, ...], jax.Array, jax.Array, jax.Array]
"""What a step gives: every layer's KV pages, logits[sequence, vocab], greedy tokens[sequence], whether finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSizes:
    """How many pages the configured bytes pay for, page 0 counted."""

    num_kv_pages: int
    num_adapter_pages: int

    @classmethod
    def of(cls, spec: ModelSpec, config: EngineConfig) -> "PoolSizes":
        """Pages that fit.

        Raises: ValueError naming the flag to raise if a pool could not hold one request.
        """
        value_bytes = jnp.dtype(config.dtype).itemsize
        per_token = spec.num_layers * 2 * spec.num_kv_heads * spec.head_dim * value_bytes
        page = spec.adapter_page_bytes(value_bytes)
        sizes = cls(
            num_kv_pages=config.kv_bytes // (per_token * config.kv_page_tokens),
            num_adapter_pages=config.adapter_bytes // page,
        )
        if sizes.num_kv_pages < 2:
            raise ValueError(
                f"--kv-bytes {config.kv_bytes} holds no page; one takes {per_token * config.kv_page_tokens}"
            )
        if sizes.num_adapter_pages < 2:
            raise ValueError(
                f"--adapter-bytes {config.adapter_bytes} holds no page; rank 8 takes {page}, page 0 as much"
            )
        return sizes


class Steps(Protocol):
    """Who carries plans out: a runner, or a replica's leader, whose other processes do the same."""

    sizes: PoolSizes

    def write(self, writes: tuple[PageWrite, ...], adapters: Mapping[Version, HostAdapter]) -> None:
        """As `Runner.write`."""

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        """As `Runner.run`."""


class Runner:
    """Device state of one replica and the programs that change it.

    Invariant: `_kv` and `_pools` are the only references to the donated device buffers.
    Owner: the engine thread. Not thread-safe.
    """

    def __init__(
        self, spec: ModelSpec, config: EngineConfig, layout: Layout, ops: Ops, weights: Mapping[str, jax.Array]
    ) -> None:
        """Take the weights over, by dotted name and placed as `layout` says; allocate zeroed pools.

        Raises: UnsupportedModel if the weights are not those of `spec`.
        """
        self._spec, self._config, self._layout, self._ops = spec, config, layout, ops
        self._dtype = jnp.dtype(config.dtype)
        self._graph, wanted = abstract(spec, self._dtype)
        if wanted.keys() != weights.keys():
            raise UnsupportedModel(f"weights differ from the model's: {sorted(wanted.keys() ^ weights.keys())[:4]}")
        self._weights = dict(weights)
        self.sizes = PoolSizes.of(spec, config)
        self.kernels = ops.name
        self._kv = tuple(self._zeros(self._kv_shape(), layout.kv()) for _ in range(spec.num_layers))
        self._pools: Pools = {target: self._zero_pages(target) for target in TARGETS}
        self._table_pages = table_pages(spec.max_model_len, config.kv_page_tokens)
        self._buckets = buckets(config)
        self._steps: dict[tuple[Bucket, bool], Callable[..., Stepped]] = {}
        self._draw = Draw(
            spec.vocab_size, {bucket.num_sequences for bucket in self._buckets}, layout.mesh.local_devices[0]
        )
        self._write_page: Callable[..., Pools]

    def compile(self, progress: Callable[[str], None]) -> None:
        """Compile every program there will ever be, a few at a time; `progress` hears of each.

        An error in one, or in `progress`, drops the others and is raised at once: XLA cannot be interrupted, so what
        is being compiled then goes on for a while, on threads whose names start with COMPILER_THREAD.
        """
        jobs: dict[str, Callable[[], None]] = {"page writes": self._compile_write}
        for bucket in self._buckets:
            for has_adapters in (False, True):
                kind = "with adapters" if has_adapters else "base only"
                jobs[f"step of {bucket.num_tokens} tokens, {kind}"] = partial(self._compile_step, bucket, has_adapters)
        jobs |= self._draw.compile_jobs()
        pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix=COMPILER_THREAD)
        try:
            running = {pool.submit(job): name for name, job in jobs.items()}
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                progress(f"compiling {done}/{len(jobs)}: {running[future]}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def write(self, writes: tuple[PageWrite, ...], adapters: Mapping[Version, HostAdapter]) -> None:
        """Copy pages of host adapters into device pages."""
        for order in writes:
            self.put(order.page, self.host_page(adapters[order.version], order.index))

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        """One token for each chunk that samples, by request id; None where its logits are not finite."""
        return self.sample(plan, self.advance(self.arrays(plan))) if plan.chunks else {}

    # The halves of `write` and `run`: a replica that spans processes does some of them everywhere.

    def host_page(self, adapter: HostAdapter, index: int) -> HostPage:
        """One page of an adapter; a target that it lacks is zeros."""
        return {
            target: (adapter.a[target][:, index], adapter.b[target][:, index])
            if target in adapter.a
            else self._zero_host_page(target)
            for target in TARGETS
        }

    def zero_page(self) -> HostPage:
        """A page with nothing in it, of the shapes that every page has."""
        return {target: self._zero_host_page(target) for target in TARGETS}

    def put(self, page: int, pages: HostPage) -> None:
        """Write one page to the device."""
        self._pools = self._write_page(self._pools, pages, np.int32(page))

    def arrays(self, plan: StepPlan) -> Batch:
        """The chunks of a plan, in the smallest bucket that holds them."""
        bucket = fitting(plan.chunks, self._buckets)
        return self._prepared(batch(plan.chunks, bucket, self._config.kv_page_tokens, self._table_pages))

    def example(self, bucket_index: int) -> Batch:
        """A batch of a bucket's shapes with nothing in it, adapters included."""
        bucket = self._buckets[bucket_index]
        return self._prepared(example(bucket, self._config.kv_page_tokens, self._table_pages))

    def _prepared(self, arrays: Batch) -> Batch:
        """The batch with what the kernels read of its work list, besides."""
        if arrays.lora is None:
            return arrays
        lora = self._ops.prepare(arrays.lora, arrays.bucket.num_tokens, self.sizes.num_adapter_pages)
        return replace(arrays, lora=lora)

    def bucket_index(self, arrays: Batch) -> int:
        """Which bucket a batch is of: the same number in every process of a replica."""
        return self._buckets.index(arrays.bucket)

    def advance(self, arrays: Batch) -> Results:
        """Launch one step, which leaves its keys and values on the device."""
        step = self._steps[arrays.bucket, arrays.lora is not None]
        adapters = () if arrays.lora is None else (self._pools, arrays.lora)
        stepped = step(self._weights, self._kv, arrays.tokens, arrays.last_token, arrays.attention, *adapters)
        self._kv, results = stepped[0], stepped[1:]
        return results

    def sample(self, plan: StepPlan, results: Results) -> dict[str, Token | None]:
        """What the chunks of a plan get of the results of its step."""
        logits, greedy, finite = (result.addressable_data(0) for result in results)  # every device has them whole
        return self._draw.tokens(plan.chunks, logits, greedy, finite)

    def _forward(
        self,
        weights: dict[str, jax.Array],
        kv: tuple[jax.Array, ...],
        tokens: jax.Array,
        last_token: jax.Array,
        attention: AttentionWork,
        pools: Pools | None = None,
        lora: LoraWork | None = None,
    ) -> Stepped:
        """The step itself, on one device's shards."""
        spec = self._spec
        model = bind(self._graph, weights)
        # Computed once: XLA would fuse them into every layer.
        cos, sin = jax.lax.optimization_barrier(rope_tables(spec.rope, spec.head_dim, attention.position))
        step = Step(spec=spec, layout=self._layout, ops=self._ops, attention=attention, cos=cos, sin=sin)
        adapters: list[Adapters] = [NO_ADAPTERS] * spec.num_layers
        if pools is not None and lora is not None:
            num_pages = self.sizes.num_adapter_pages
            adapters = [LayerAdapters(pools, lora.shifted(i * num_pages)) for i in range(spec.num_layers)]
        caches = [
            Cache(kv=pages, adapters=layer, window=window)
            for pages, layer, window in zip(kv, adapters, spec.windows, strict=True)
        ]
        x, kv = model.hidden(tokens, caches, step)
        logits = model.logits(x[last_token], step)
        return kv, logits, most_likely(logits), is_finite(logits)

    def _compile_step(self, bucket: Bucket, has_adapters: bool) -> None:
        whole = PartitionSpec()
        empty = self.example(self._buckets.index(bucket))
        inputs = [self._weights, self._kv, empty.tokens, empty.last_token, empty.attention]
        specs = [{name: self._layout.weight(name) for name in self._weights}, self._layout.kv(), whole, whole, whole]
        if has_adapters:
            inputs += [self._pools, empty.lora]
            specs += [self._pool_specs(), whole]
        mapped = jax.shard_map(
            self._forward,
            mesh=self._layout.mesh,
            in_specs=tuple(specs),
            out_specs=(self._layout.kv(), whole, whole, whole),
            check_vma=False,
        )
        self._steps[bucket, has_adapters] = jax.jit(mapped, donate_argnums=1).lower(*inputs).compile()

    def _compile_write(self) -> None:
        def put(pool: jax.Array, new: jax.Array, page: jax.Array) -> jax.Array:
            layered = pool.reshape(self._spec.num_layers, -1, *pool.shape[1:])
            return jax.lax.dynamic_update_slice_in_dim(layered, new[:, None], page, axis=1).reshape(pool.shape)

        def write(pools: Pools, pages: dict[Target, tuple[jax.Array, jax.Array]], page: jax.Array) -> Pools:
            return {
                target: (put(a, pages[target][0], page), put(b, pages[target][1], page))
                for target, (a, b) in pools.items()
            }

        zeros = self.zero_page()
        self._write_page = jax.jit(write, donate_argnums=0).lower(self._pools, zeros, np.int32(0)).compile()

    def _zero_host_page(self, target: Target) -> tuple[np.ndarray, np.ndarray]:
        rows = (self._spec.num_layers, ROWS_PER_PAGE)
        width_in, width_out = self._spec.widths(target)
        return np.zeros((*rows, width_in), self._dtype), np.zeros((*rows, width_out), self._dtype)

    def _zero_pages(self, target: Target) -> Page:
        rows = (self._spec.num_layers * self.sizes.num_adapter_pages, ROWS_PER_PAGE)
        (width_in, width_out), (spec_a, spec_b) = self._spec.widths(target), self._layout.adapter(target)
        return self._zeros((*rows, width_in), spec_a), self._zeros((*rows, width_out), spec_b)

    def _pool_specs(self) -> dict[Target, tuple[PartitionSpec, PartitionSpec]]:
        return {target: self._layout.adapter(target) for target in TARGETS}

    def _kv_shape(self) -> tuple[int, ...]:
        return (self.sizes.num_kv_pages, self._config.kv_page_tokens, 2, self._spec.num_kv_heads, self._spec.head_dim)

    def _zeros(self, shape: tuple[int, ...], spec: PartitionSpec) -> jax.Array:
        return jnp.zeros(shape, self._dtype, device=self._layout.sharding(spec))
