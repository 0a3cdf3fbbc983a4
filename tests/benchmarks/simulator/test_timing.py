"""Steps of plans take what the model says of their chunks."""

from dataclasses import replace

import pytest

from benchmarks.simulator.measure import work_of
from benchmarks.simulator.timing import Timing
from lorajax.plan import Chunk, PageWrite, StepPlan
from lorajax.spec import Request, Sampling, Version
from tests.benchmarks.simulator.rig import hardware

RANKS = {Version("a"): 8, Version("b"): 64}


def chunk(request_id, start, num_tokens, *versions):
    return Chunk(
        request=Request(
            id=request_id, prompt=(0,), sampling=Sampling(max_tokens=1), adapters=tuple((one, 1.0) for one in versions)
        ),
        tokens=(0,) * num_tokens,
        start=start,
        kv_pages=(),
        adapter_pages=(),
        output=(),
        num_output=0,
        samples=True,
    )


CHUNKS = (chunk("r", 30, 20, "a"), chunk("s", 7, 1, "a"), chunk("t", 9, 1, "b"), chunk("u", 4, 1))
PLAN = StepPlan(number=0, chunks=CHUNKS, writes=(), fetches=(), releases=(), failed=())


@pytest.fixture
def timing():
    found = Timing(hardware(), turn=1)
    found.rank_of |= RANKS
    return found


def test_a_step_takes_what_its_work_does(timing):
    work = work_of(CHUNKS, RANKS.__getitem__)
    assert timing.ends_s(PLAN, {}, 5.0) == pytest.approx([5.0 + hardware().step.step_s(work)])


def test_each_host_is_as_fast_as_the_one_it_stands_for():
    slow_then_fast = hardware(jitter=((2.0, 1.5), (0.5,)))
    took_s = []
    for turn in (1, 2, 1):
        timing = Timing(slow_then_fast, turn)
        timing.rank_of |= RANKS
        took_s += timing.ends_s(PLAN, {}, 0.0)
    work = work_of(CHUNKS, RANKS.__getitem__)
    assert took_s == pytest.approx([slow_then_fast.step.step_s(work) * part for part in (2.0, 0.5, 2.0)])


def test_page_writes_come_on_top(timing):
    writes = (PageWrite(version=Version("a"), index=0, page=1),) * 3
    (ends_s,), (less_s,) = (timing.ends_s(replace(PLAN, writes=some), {}, 5.0) for some in (writes, ()))
    assert ends_s - less_s == pytest.approx(3 * hardware().page_bytes / hardware().load_bytes_per_s)
