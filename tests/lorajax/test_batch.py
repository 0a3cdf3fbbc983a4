"""Buckets hold every plan a scheduler may make, and work lists say what a naive reading of the plan says."""

from collections import defaultdict
from itertools import pairwise

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorajax.batch import MAX_SET_PAGES, batch, buckets, example, fitting, table_pages
from lorajax.config import EngineConfig
from lorajax.plan import Chunk
from lorajax.spec import Request, Sampling
from pallas_kernels.work import TILE_TOKENS
from pallas_kernels.xla_attention import BLOCK_TOKENS, DECODE_ROWS

PAGE_TOKENS, TABLE_PAGES = 16, 64
LENGTHS = st.one_of(st.just(1), st.sampled_from((2, TILE_TOKENS, TILE_TOKENS + 1)), st.integers(1, 200))
SETS = ((), ((3, 1.0),), ((5, 0.5), (9, 0.5), (3, -2.0)), tuple((page, 1.0) for page in range(1, MAX_SET_PAGES + 1)))
fast = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def configs(draw):
    max_sequences = draw(st.one_of(st.sampled_from((1, 5, 16, 64)), st.integers(1, 80)))
    return EngineConfig(
        kv_bytes=1,
        adapter_bytes=1,
        host_adapter_bytes=1,
        max_sequences=max_sequences,
        max_batch_tokens=draw(st.integers(max(16, max_sequences), 512)),
        interleaved_tokens=draw(st.integers(1, 128)),
    )


def chunk(number, length, start, adapter_pages):
    """A chunk of `length` tokens from `start`, with pages and ids that no other has."""
    num_pages = -(-(start + length) // PAGE_TOKENS)
    return Chunk(
        request=Request(id=f"r{number}", prompt=(1,), sampling=Sampling(max_tokens=1)),
        tokens=tuple(1000 * number + i + 1 for i in range(length)),
        start=start,
        kv_pages=tuple(TABLE_PAGES * number + i + 1 for i in range(num_pages)),
        adapter_pages=adapter_pages,
        output=(),
        num_output=0,
        samples=True,
    )


@st.composite
def steps(draw):
    """A config and the chunks of any plan within it: tokens and sequences as it allows, equal sets as neighbours."""
    config = draw(configs())
    lengths = draw(st.lists(LENGTHS, max_size=config.max_sequences))
    sets = sorted(draw(st.lists(st.sampled_from(SETS), min_size=len(lengths), max_size=len(lengths))))
    chunks, budget = [], config.max_batch_tokens
    for number, (length, adapter_pages) in enumerate(zip(lengths, sets, strict=True)):
        if length <= budget:
            chunks.append(chunk(number, length, draw(st.integers(0, 300)), adapter_pages))
            budget -= length
    return config, tuple(chunks)


def laid_out(step):
    config, chunks = step
    return batch(chunks, fitting(chunks, buckets(config)), PAGE_TOKENS, TABLE_PAGES)


def tokens_of(chunks):
    """(row, chunk, offset) of every token, in order."""
    return [(row, chunk, i) for row, chunk in enumerate(chunks) for i in range(len(chunk.tokens))]


@fast
@given(configs(), st.data())
def test_a_full_step_of_any_split_has_a_bucket(config, data):
    num_chunks = data.draw(st.integers(1, config.max_sequences))
    cuts = sorted(data.draw(st.permutations(range(1, config.max_batch_tokens)))[: num_chunks - 1])
    edges = [0, *cuts, config.max_batch_tokens]
    chunks = [chunk(i, end - start, 0, ()) for i, (start, end) in enumerate(pairwise(edges))]
    assert fitting(chunks, buckets(config)) in buckets(config)


@fast
@given(steps())
def test_no_smaller_bucket_holds_a_step(step):
    config, chunks = step
    known = buckets(config)
    num_tokens, num_tiles = len(tokens_of(chunks)), int(laid_out(step).attention.num_tiles)
    needs = np.array([num_tokens, len(chunks), num_tiles])
    holds = [b for b in known if (np.array([b.num_tokens, b.num_sequences, b.num_tiles]) >= needs).all()]
    assert fitting(chunks, known) == min(holds)


@fast
@given(configs())
def test_buckets_are_few_and_decode_only_ones_have_no_tiles(config):
    known = buckets(config)
    assert len(set(known)) == len(known) <= 12
    assert {b.num_tiles > 0 for b in known} == {False, True}


@fast
@given(steps())
def test_shapes_depend_on_the_bucket_alone(step):
    arrays = laid_out(step)
    wanted = example(arrays.bucket, PAGE_TOKENS, TABLE_PAGES)
    actual = jax.tree.leaves((arrays.tokens, arrays.last_token, arrays.attention, arrays.lora))
    known = jax.tree.leaves((wanted.tokens, wanted.last_token, wanted.attention, arrays.lora and wanted.lora))
    assert [(x.shape, x.dtype) for x in actual] == [(x.shape, x.dtype) for x in known]


@fast
@given(steps())
def test_tokens_lie_in_the_order_of_the_plan(step):
    arrays, chunks = laid_out(step), step[1]
    ids = [token for chunk in chunks for token in chunk.tokens]
    assert arrays.tokens.tolist() == ids + [0] * (len(arrays.tokens) - len(ids))
    assert [arrays.tokens[i] for i in arrays.last_token[: len(chunks)]] == [chunk.tokens[-1] for chunk in chunks]


@fast
@given(steps())
def test_every_token_knows_its_row_position_and_slot(step):
    work, chunks = laid_out(step).attention, step[1]
    for token, (row, chunk, i) in enumerate(tokens_of(chunks)):
        at = chunk.start + i
        assert (work.row[token], work.position[token]) == (row, at)
        assert work.slot[token] == chunk.kv_pages[at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS
        assert work.table[row, at // PAGE_TOKENS] == chunk.kv_pages[at // PAGE_TOKENS]


@fast
@given(steps())
def test_padding_tokens_write_to_page_zero(step):
    work, num_tokens = laid_out(step).attention, len(tokens_of(step[1]))
    assert not np.concatenate([work.row[num_tokens:], work.position[num_tokens:]]).any()
    assert (work.slot[num_tokens:] < PAGE_TOKENS).all()


@fast
@given(steps())
def test_every_token_is_in_one_tile_or_decodes(step):
    work, chunks = laid_out(step).attention, step[1]
    decoding = work.decode_token[: work.num_decode].tolist()
    tiles = list(zip(work.tile_token, work.tile_count, strict=True))[: work.num_tiles]
    covered = decoding + [first + i for first, count in tiles for i in range(count)]
    owners = tokens_of(chunks)
    assert sorted(covered) == list(range(len(owners)))
    assert {len(owners[token][1].tokens) for token in decoding} <= {1}
    assert all(count <= TILE_TOKENS and owners[first][0] == owners[first + count - 1][0] for first, count in tiles)


@fast
@given(steps())
def test_the_longest_contexts_decode_first(step):
    work = laid_out(step).attention
    positions = work.position[work.decode_token[: work.num_decode]].tolist()
    assert positions == sorted(positions, reverse=True)
    assert len(work.decode_token) % DECODE_ROWS == 0


@fast
@given(steps())
def test_every_token_meets_the_pages_of_its_set_once_each(step):
    work, chunks = laid_out(step).lora, step[1]
    met = defaultdict(list)
    if work is not None:
        for i in range(work.num_items):
            for token in range(work.start[i], work.start[i] + work.count[i]):
                met[token].append((int(work.page[i]), float(work.weight[i])))
    for token, (_, chunk, _) in enumerate(tokens_of(chunks)):
        assert tuple(met[token]) == chunk.adapter_pages


@fast
@given(steps())
def test_neighbours_with_one_set_share_its_items(step):
    work, chunks = laid_out(step).lora, step[1]
    wanted = sum(len(adapter_pages) for adapter_pages in {chunk.adapter_pages for chunk in chunks})
    assert (0 if work is None else int(work.num_items)) == wanted


@fast
@given(steps())
def test_a_step_without_adapters_has_no_lora_work(step):
    assert (laid_out(step).lora is None) is not any(chunk.adapter_pages for chunk in step[1])


@fast
@given(st.integers(1, 5000), st.integers(1, 300))
def test_a_table_holds_the_longest_context_in_whole_blocks(max_model_len, page_tokens):
    columns = table_pages(max_model_len, page_tokens)
    block_pages = max(1, BLOCK_TOKENS // page_tokens)
    assert columns % block_pages == 0
    assert 0 <= columns * page_tokens - max_model_len < block_pages * page_tokens
