"""A whole decode step's turn on the device: Llama-3-8B's shapes, random weights. Owns: the step as the engine has it.

Does not: run the engine; nothing is planned, sampled or streamed.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp

from benchmarks.kernels.attention_task import decode_work
from benchmarks.kernels.cases import CASES, LLAMA_3_8B, STEP, layer_bytes
from benchmarks.kernels.ours import POOL_PAGES, work_of
from benchmarks.kernels.timing import timed
from benchmarks.kernels.turns import Found, Task
from lorajax.layers import rope_tables
from lorajax.lora import NO_ADAPTERS, Adapters, LayerAdapters
from lorajax.mesh import Layout, make_mesh
from lorajax.models.decoder import Cache, Step
from lorajax.models.registry import abstract, bind
from lorajax.sampler import most_likely
from lorajax.spec import TARGETS, ModelSpec, RopeSpec, Target
from pallas_kernels.ops import MOSAIC, Page
from pallas_kernels.work import AttentionWork, LoraWork

_CASE = next(case for case in CASES if case.name == "decode-mixed")
_CONTEXT = 128
"""Short, so that the weights' bytes are nearly all."""
_PAGE_TOKENS = 64
_SCALE = 0.02

type Pools = dict[Target, Page]
type Run = Callable[..., tuple[tuple[jax.Array, ...], jax.Array]]


def llama_3_8b(num_layers: int) -> ModelSpec:
    """Its shapes."""
    return ModelSpec(
        family="llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=num_layers,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope=RopeSpec(theta=500000.0),
        max_model_len=8192,
        tied_embeddings=False,
        windows=(None,) * num_layers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The step as a function of arrays."""

    spec: ModelSpec

    def weights(self) -> dict[str, jax.Array]:
        """Random ones on the device."""
        _, shapes = abstract(self.spec, jnp.dtype(jnp.bfloat16))
        return {name: _drawn(i, one.shape) for i, (name, one) in enumerate(shapes.items())}

    def pools(self) -> Pools:
        """Random adapter pages, layer after layer."""
        pages = self.spec.num_layers * POOL_PAGES
        return {
            target: (_drawn(i, (pages, 8, wide_in)), _drawn(i, (pages, 8, wide_out)))
            for i, (target, (wide_in, wide_out)) in enumerate((t, self.spec.widths(t)) for t in TARGETS)
        }

    def kv(self) -> tuple[jax.Array, ...]:
        """Random keys and values."""
        pages = _CASE.num_tokens * _CONTEXT // _PAGE_TOKENS + 1
        shape = (pages, _PAGE_TOKENS, 2, self.spec.num_kv_heads, self.spec.head_dim)
        return tuple(_drawn(i, shape) for i in range(self.spec.num_layers))

    def step(self) -> Run:
        """The jitted step, without adapters where it is given no pools; it takes the kv pages over."""
        graph, _ = abstract(self.spec, jnp.dtype(jnp.bfloat16))
        layout = Layout.of(self.spec, make_mesh(jax.devices()[:1], 1))

        def run(
            weights: dict[str, jax.Array],
            kv: tuple[jax.Array, ...],
            tokens: jax.Array,
            attention: AttentionWork,
            pools: Pools | None = None,
            lora: LoraWork | None = None,
        ) -> tuple[tuple[jax.Array, ...], jax.Array]:
            model = bind(graph, weights)
            cos, sin = rope_tables(self.spec.rope, self.spec.head_dim, attention.position)
            step = Step(spec=self.spec, layout=layout, ops=MOSAIC, attention=attention, cos=cos, sin=sin)
            layers: list[Adapters] = [NO_ADAPTERS] * self.spec.num_layers
            if pools is not None and lora is not None:
                layers = [LayerAdapters(pools, lora.shifted(i * POOL_PAGES)) for i in range(len(layers))]
            caches = [Cache(kv=pages, adapters=one, window=None) for pages, one in zip(kv, layers, strict=True)]
            x, written = model.hidden(tokens, caches, step)
            return written, most_likely(model.logits(x, step))

        return jax.jit(run, donate_argnums=1)


def tasks(num_layers: int) -> Iterator[Task]:
    """The base's step, then the one with adapters."""
    model = Model(spec=llama_3_8b(num_layers))
    weights = functools.cache(model.weights)
    for name, has_adapters in ((f"{STEP}/base", False), (f"{STEP}/adapters", True)):
        yield Task(name, 150.0, functools.partial(_measure, model, weights, has_adapters))


def _measure(model: Model, weights: Callable[[], dict[str, jax.Array]], has_adapters: bool) -> Found:
    step, held = model.step(), weights()
    attention = jax.tree.map(
        jnp.asarray, decode_work(_CASE.num_tokens, _CONTEXT, _PAGE_TOKENS, model.spec.max_model_len, seed=1)
    )
    adapters = (model.pools(), jax.tree.map(jnp.asarray, work_of(_CASE, 0))) if has_adapters else ()
    tokens = jnp.arange(_CASE.num_tokens, dtype=jnp.int32)
    kv = model.kv()

    def call(_: int) -> jax.Array:
        nonlocal kv
        kv, greedy = step(held, kv, tokens, attention, *adapters)
        return greedy

    timing = timed(call, 1)
    read = sum(array.nbytes for name, array in held.items() if name != "embed")
    lora_bytes = model.spec.num_layers * layer_bytes(_CASE, LLAMA_3_8B)
    return {
        "weight_bytes": read,
        "lora_bytes": lora_bytes if has_adapters else 0,
        "num_layers": model.spec.num_layers,
        "context": _CONTEXT,
        "sum_of_ranks": sum(_CASE.ranks),
        **asdict(timing),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _drawn(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Seeded bfloat16 values of a weight's size."""
    return _SCALE * jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)
