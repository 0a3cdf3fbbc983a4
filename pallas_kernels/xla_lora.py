"""Grouped LoRA for XLA on CPU: a loop over adapter pages with a dynamic trip count. Owns: that formulation.

Time follows the sum of the ranks in the step, never the largest rank or the number of resident adapters.
"""

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.work import LoraWork

type Page = tuple[jax.Array, jax.Array]


def window_tokens(num_tokens: int) -> int:
    """Tokens multiplied at once with one page: few when decoding, where runs are short."""
    return min(num_tokens, 4 if num_tokens <= 32 else 32)


def grouped_lora(x: jax.Array, pages: tuple[Page, ...], work: LoraWork) -> tuple[jax.Array, ...]:
    """Update of x[token, in] for several targets that share it; one float32 [token, out] for each (a, b) of `pages`.

    One loop serves all targets: the work list is read once.
    """
    num_tokens, width = x.shape[0], window_tokens(x.shape[0])
    padded = jnp.pad(x, ((0, width), (0, 0)))  # a window may reach past the last token, never be clamped back

    def one_item(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        rows = [tuple(lax.dynamic_index_in_dim(m, work.page[i], 0, keepdims=False) for m in pair) for pair in pages]

        def one_window(k: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            first = work.start[i] + k * width
            live = jnp.arange(width)[:, None] < work.count[i] - k * width
            xs = lax.dynamic_slice(padded, (first, 0), (width, x.shape[1]))
            return tuple(
                lax.dynamic_update_slice(
                    total,
                    lax.dynamic_slice(total, (first, 0), (width, total.shape[1]))
                    + jnp.where(live, _update(xs, a, b, work.weight[i]), 0.0),
                    (first, 0),
                )
                for total, (a, b) in zip(sums, rows, strict=True)
            )

        return lax.fori_loop(0, (work.count[i] + width - 1) // width, one_window, sums)

    zeros = tuple(jnp.zeros((num_tokens + width, b.shape[2]), jnp.float32) for _, b in pages)
    return tuple(total[:num_tokens] for total in lax.fori_loop(0, work.num_items, one_item, zeros))


def _update(x: jax.Array, a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """x[token, in] through one page a[row, in], b[row, out], scaled by the weight; float32."""
    h = lax.dot_general(x, a, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return lax.dot_general(
        (h * weight).astype(b.dtype), b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
