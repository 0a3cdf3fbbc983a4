"""The page format: packing against unpacking, and buffers that were harmed on the way."""

import json

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from lorajax.adapter_pages import DTYPES, HostAdapter, LowRank, from_bytes, pack, to_bytes, unpack
from lorajax.errors import CorruptAdapter, UnsupportedAdapter
from lorajax.spec import TARGETS, ModelSpec, RopeSpec, Version

MODEL = ModelSpec(
    family="llama",
    vocab_size=16,
    hidden_size=8,
    intermediate_size=12,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    rms_norm_eps=1e-5,
    rope=RopeSpec(theta=10000.0),
    max_model_len=64,
    tied_embeddings=True,
    windows=(None, None, None),
)
RANKS = st.dictionaries(st.tuples(st.integers(0, 2), st.sampled_from(TARGETS)), st.integers(1, 20), min_size=1)


def random_updates(ranks, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    updates = {}
    for (layer, target), rank in ranks.items():
        width_in, width_out = MODEL.widths(target)
        a, b = draw((rank, width_in), np.float32), draw((width_out, rank), np.float32)
        updates[layer, target] = LowRank(a=a, b=b, scale=1.5)
    return updates


def packed(ranks, dtype="float32"):
    return pack(random_updates(ranks), model=MODEL, version=Version("v"), dtype=DTYPES[dtype])


def pages_are_equal(one: HostAdapter, other: HostAdapter) -> bool:
    return one.spec == other.spec and all(
        np.array_equal(mine[target], theirs[target])
        for mine, theirs in ((one.a, other.a), (one.b, other.b))
        for target in one.spec.targets
    )


@settings(deadline=None)
@given(ranks=RANKS)
def test_unpacking_gives_back_each_layers_update_and_zeros_elsewhere(ranks):
    updates, found = random_updates(ranks), unpack(packed(ranks))
    for module, low_rank in found.items():
        delta = low_rank.b @ low_rank.a
        if module in updates:
            wanted = updates[module]
            np.testing.assert_allclose(delta, wanted.scale * wanted.b @ wanted.a, rtol=1e-5, atol=1e-5)
        else:
            assert not delta.any()
    assert found.keys() >= updates.keys()


@settings(deadline=None)
@given(ranks=RANKS)
def test_rows_past_a_layers_own_rank_are_zero(ranks):
    adapter = packed(ranks)
    for (layer, target), rank in ranks.items():
        assert not adapter.a[target][layer].reshape(-1, MODEL.widths(target)[0])[rank:].any()
        assert not adapter.b[target][layer].reshape(-1, MODEL.widths(target)[1])[rank:].any()


@settings(deadline=None)
@given(ranks=RANKS)
def test_the_spec_says_what_the_pages_are(ranks):
    adapter = packed(ranks, "bfloat16")
    arrays = [*adapter.a.values(), *adapter.b.values()]
    assert adapter.spec.rank == max(ranks.values())
    assert set(adapter.spec.targets) == {target for _, target in ranks} == adapter.a.keys()
    assert adapter.spec.num_bytes == sum(array.nbytes for array in arrays)
    assert {array.shape[1:3] for array in arrays} == {(adapter.spec.num_pages, 8)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_value_is_rounded_once(dtype):
    value, scale = np.float32(1.2345678), 1.7654321
    update = LowRank(a=np.full((1, 8), value), b=np.full((8, 1), value), scale=scale)
    adapter = pack({(0, "q_proj"): update}, model=MODEL, version=Version("v"), dtype=DTYPES[dtype])
    assert adapter.a["q_proj"][0, 0, 0, 0] == DTYPES[dtype].type(value)
    assert adapter.b["q_proj"][0, 0, 0, 0] == DTYPES[dtype].type(value * np.float32(scale))


def test_a_value_that_overflows_the_dtype_is_refused():
    update = LowRank(a=np.ones((1, 8), np.float32), b=np.full((8, 1), 6e4, np.float32), scale=2.0)
    with pytest.raises(UnsupportedAdapter, match=r"layer 0 q_proj B \* 2 does not fit float16"):
        pack({(0, "q_proj"): update}, model=MODEL, version=Version("v"), dtype=DTYPES["float16"])


def test_an_adapter_without_updates_is_refused():
    with pytest.raises(ValueError, match="at least one update"):
        pack({}, model=MODEL, version=Version("v"))


@settings(deadline=None)
@given(ranks=RANKS, dtype=st.sampled_from(list(DTYPES)))
def test_a_buffer_gives_the_adapter_back(ranks, dtype):
    adapter = packed(ranks, dtype)
    assert pages_are_equal(from_bytes(to_bytes(adapter)), adapter)


def test_a_received_adapter_is_a_view_of_its_buffer():
    buffer = to_bytes(packed({(0, "q_proj"): 8}))
    received = from_bytes(buffer)
    assert np.shares_memory(received.a["q_proj"], np.frombuffer(buffer, np.uint8))
    assert received.a["q_proj"].flags.aligned


@settings(deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_noticed(data):
    buffer = bytearray(to_bytes(packed({(1, "up_proj"): 3})))
    buffer[data.draw(st.integers(0, len(buffer) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptAdapter):
        from_bytes(buffer)


@settings(deadline=None)
@given(data=st.data())
def test_a_buffer_cut_short_is_noticed(data):
    buffer = to_bytes(packed({(1, "up_proj"): 3}))
    with pytest.raises(CorruptAdapter):
        from_bytes(buffer[: data.draw(st.integers(0, len(buffer) - 1))])


def test_another_version_than_the_expected_one_is_refused():
    buffer = to_bytes(packed({(0, "q_proj"): 8}))
    with pytest.raises(CorruptAdapter, match="holds adapter version v; wanted w"):
        from_bytes(buffer, expect=Version("w"))


GOOD = {"format": "lorajax-adapter-1", "version": "v", "rank": 8, "dtype": "float32"}
A, B = ["a", "q_proj", [1, 1, 8, 1]], ["b", "q_proj", [1, 1, 8, 1]]


@pytest.mark.parametrize(
    ("header", "num_bytes"),
    [
        (GOOD | {"format": "lorajax-adapter-9", "tensors": [A, B]}, 64),
        (GOOD | {"dtype": "int8", "tensors": [A, B]}, 64),
        (GOOD | {"rank": 9, "tensors": [A, B]}, 64),
        (GOOD | {"rank": 0, "tensors": [A, B]}, 64),
        (GOOD | {"tensors": [A]}, 32),
        (GOOD | {"tensors": [A, B]}, 60),
        (GOOD | {"tensors": [A, B]}, 68),
        (GOOD | {"tensors": [["a", "lm_head", [1, 1, 8, 1]], B]}, 64),
        (GOOD | {"tensors": [["a", "q_proj", "x"], B]}, 64),
        ({}, 0),
        ([], 0),
    ],
    ids=[
        *("other format", "other dtype", "more rank than pages", "rank 0", "A without B", "too few bytes"),
        *("too many bytes", "unknown target", "shape is text", "empty header", "header is a list"),
    ],
)
def test_a_buffer_that_was_made_wrong_is_refused(header, num_bytes):
    with pytest.raises(CorruptAdapter, match="same lorajax"):
        from_bytes(signed(header, num_bytes))


def signed(header, num_bytes):
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(num_bytes)
    return content + xxhash.xxh3_128_digest(content)


def test_page_values_keep_their_dtype_on_the_wire():
    received = from_bytes(to_bytes(packed({(0, "q_proj"): 8}, "bfloat16")))
    assert received.a["q_proj"].dtype == ml_dtypes.bfloat16
