"""The table from logical axes to mesh axes."""

import jax
import pytest
from jax.sharding import PartitionSpec

from lorajax.mesh import MODEL, Layout, make_mesh
from lorajax.spec import TARGETS, ModelSpec, RopeSpec

WHOLE = PartitionSpec()


def layout(ways=2, *, num_kv_heads=4, intermediate_size=96, vocab_size=128):
    spec = ModelSpec(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=intermediate_size,
        num_layers=1,
        num_heads=2 * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope=RopeSpec(theta=1e4),
        max_model_len=64,
        tied_embeddings=False,
        windows=(None,),
    )
    return Layout.of(spec, make_mesh(jax.devices(), ways))


def axes(spec):
    """Places of a PartitionSpec that are split."""
    return [i for i, axis in enumerate(spec) if axis == MODEL]


def test_a_mesh_takes_the_first_devices():
    mesh = make_mesh(jax.devices(), 2)
    assert dict(mesh.shape) == {"replica": 1, "model": 2}
    assert list(mesh.devices.flat) == jax.devices()[:2]


def test_too_few_devices_are_refused_with_the_flag_to_change():
    with pytest.raises(ValueError, match=r"--tp 8 needs 8 devices, this process has 4; lower --tp"):
        make_mesh(jax.devices(), 8)


@pytest.mark.parametrize("ways", [1, 2, 4])
def test_axes_that_the_mesh_divides_are_split(ways):
    assert layout(ways).sharded == {"heads", "mlp", "vocab"}
    assert {layout(ways).ways(name) for name in ("heads", "mlp", "vocab")} == {ways}


@pytest.mark.parametrize(
    ("sizes", "whole"),
    [({"num_kv_heads": 3}, "heads"), ({"intermediate_size": 90}, "mlp"), ({"vocab_size": 127}, "vocab")],
)
def test_an_axis_that_the_mesh_does_not_divide_stays_whole(sizes, whole):
    odd = layout(4, **sizes)
    assert odd.sharded == {"heads", "mlp", "vocab"} - {whole}
    assert odd.ways(whole) == 1
    assert odd.split(whole) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("embed", [0]),
        ("head", [1]),
        ("layers.0.attn.qkv", [1]),
        ("layers.17.attn.qkv", [1]),
        ("layers.0.attn.qkv_bias", [0]),
        ("layers.0.attn.out", [0]),
        ("layers.0.mlp.gate_up", [2]),
        ("layers.0.mlp.down", [0]),
        ("layers.0.attn_norm", []),
        ("norm", []),
    ],
)
def test_a_weight_is_split_along_its_own_axis(name, split):
    assert axes(layout().weight(name)) == split


@pytest.mark.parametrize("name", ["attn.qkv", "attn.qkv_bias", "attn.out"])
def test_attention_weights_stay_whole_where_heads_do(name):
    assert axes(layout(num_kv_heads=3).weight(f"layers.0.{name}")) == []


@pytest.mark.parametrize("target", TARGETS)
def test_an_adapter_is_split_once_and_on_the_side_its_layer_is(target):
    a, b = layout().adapter(target)
    split, whole = (a, b) if target in ("o_proj", "down_proj") else (b, a)
    assert axes(split) == [2]
    assert whole == WHOLE


@pytest.mark.parametrize("target", TARGETS)
def test_adapters_of_whole_heads_are_whole(target):
    a, b = layout(num_kv_heads=3).adapter(target)
    is_mlp = target in ("gate_proj", "up_proj", "down_proj")
    assert bool(axes(a) or axes(b)) is is_mlp


def test_kv_pages_are_split_by_head():
    assert axes(layout().kv()) == [3]
    assert axes(layout(num_kv_heads=3).kv()) == []


def test_partial_sums_meet_only_on_a_split_axis():
    odd = layout(4, vocab_size=127)
    x = jax.numpy.ones((4, 8))

    def both(x):
        return odd.total(x, "heads"), odd.total(x, "vocab"), odd.gathered(x, "mlp"), odd.gathered(x, "vocab")

    out_specs = (WHOLE, PartitionSpec(MODEL), WHOLE, PartitionSpec(MODEL))
    mapped = jax.shard_map(both, mesh=odd.mesh, in_specs=PartitionSpec(MODEL), out_specs=out_specs, check_vma=False)
    summed, own, gathered, piece = mapped(x)
    assert (summed.shape, own.shape, gathered.shape, piece.shape) == ((1, 8), (4, 8), (1, 32), (4, 8))
    assert (summed == 4).all()
    assert (own == 1).all()
