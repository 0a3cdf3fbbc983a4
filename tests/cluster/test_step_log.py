"""Steps are carried out as before, and told."""

import io

from cluster.step_log import LoggedChunk, StepLog, parsed
from lorajax.plan import Chunk, PageWrite, StepPlan
from lorajax.runner import PoolSizes
from lorajax.spec import Request, Sampling, Token, Version

ONE = Version("ab" * 32)
WRITE = PageWrite(version=ONE, index=0, page=1)


class Steps:
    sizes = PoolSizes(num_kv_pages=2, num_adapter_pages=2)

    def __init__(self):
        self.seen = []

    def write(self, writes, adapters):
        self.seen.append((writes, adapters))

    def run(self, plan):
        self.seen.append(plan)
        return {"r": Token(id=7)}


def plan(*chunks, writes=()):
    return StepPlan(number=1, chunks=chunks, writes=writes, fetches=(), releases=(), failed=())


def chunk():
    request = Request(id="r", prompt=(5, 6, 7, 8), sampling=Sampling(max_tokens=2), adapters=((ONE, 1.0),))
    pages = ((1, 1.0), (2, 1.0))
    return Chunk(
        request=request,
        tokens=(6, 7),
        start=1,
        kv_pages=(1,),
        adapter_pages=pages,
        output=(),
        num_output=0,
        samples=False,
    )


def logged(*plans):
    """What steps carried out, and what was told."""
    steps, file = Steps(), io.StringIO()
    log = StepLog(steps, file)
    for given in plans:
        log.write(given.writes, {})
        assert log.run(given) == {"r": Token(id=7)}
    return steps.seen, parsed(file.getvalue())


def test_steps_are_carried_out_by_another():
    given = plan(chunk(), writes=(WRITE,))
    assert logged(given)[0] == [((WRITE,), {}), given]


def test_what_a_step_computed_is_told():
    _, (empty, step) = logged(plan(), plan(chunk(), writes=(WRITE,)))
    assert (empty.chunks, empty.num_writes, step.num_writes) == ((), 0, 1)
    assert step.chunks == (LoggedChunk("r", 1, 2, ONE, 2),)


def test_times_follow_one_another():
    _, (first, second) = logged(plan(), plan())
    assert first.began_s <= first.ended_s <= second.began_s <= second.ended_s


def test_a_torn_line_is_left_out():
    assert len(parsed("[1,2,0,[]]\n[3,4,0")) == 1
