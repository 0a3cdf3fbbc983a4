"""What each op means, in plain jnp: exact, slow, obvious. Owns: the meaning. Does not: care about speed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.work import AttentionWork, LoraWork


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x[token, in] by kernel[in, …] over its first axis: float32 [token, …]."""
    return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def rounded_project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`project` rounded to x.dtype, so that a GPU writes half as much: [token, …]."""
    return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())))


def grouped_lora(
    x: Float[Array, "token in"], a: Float[Array, "page row in"], b: Float[Array, "page row out"], work: LoraWork
) -> Float[Array, "token out"]:
    """Low-rank update of each token by the pages of its own adapters, float32; zeros for tokens without one.

    Every item is computed for every token and kept where the token is of its run. Sums in float32; h is rounded to
    x.dtype as the kernels do.
    """
    token = jnp.arange(x.shape[0])[:, None]

    def one_item(i: jax.Array, total: jax.Array) -> jax.Array:
        page, start, count, weight = (field[i] for field in (work.page, work.start, work.count, work.weight))
        h = jnp.einsum("td,rd->tr", x, a[page], preferred_element_type=jnp.float32) * weight
        update = jnp.einsum("tr,ro->to", h.astype(x.dtype), b[page], preferred_element_type=jnp.float32)
        return total + jnp.where((token >= start) & (token < start + count), update, 0.0)

    return jax.lax.fori_loop(0, work.num_items, one_item, jnp.zeros((x.shape[0], b.shape[2]), jnp.float32))


def paged_attention(
    q: Float[Array, "token kv_head group head_dim"],
    kv: Float[Array, "page slot two kv_head head_dim"],
    work: AttentionWork,
    window: int | None,
) -> Float[Array, "token kv_head group head_dim"]:
    """Causal attention of each token over its own row's pages, scaled by head_dim ** -0.5; returned in q.dtype.

    `window` keeps the last `window` positions, the token's own included.
    """
    keys = kv[work.table[work.row]].astype(jnp.float32)  # [token, page, slot, 2, kv_head, head_dim]
    keys = keys.reshape(q.shape[0], -1, 2, *kv.shape[3:])
    scores = jnp.einsum("thgd,tshd->thgs", q.astype(jnp.float32), keys[:, :, 0]) * q.shape[-1] ** -0.5
    at = jnp.arange(keys.shape[1])[None, :]
    seen = at <= work.position[:, None]
    if window is not None:
        seen = seen & (at > work.position[:, None] - window)
    scores = jnp.where(seen[:, None, None, :], scores, -jnp.inf)
    values = jnp.where(seen[:, :, None, None], keys[:, :, 1], 0.0)  # what is not seen may be NaN, and 0 * NaN is NaN
    return jnp.einsum("thgs,tshd->thgd", jax.nn.softmax(scores, axis=-1), values).astype(q.dtype)
