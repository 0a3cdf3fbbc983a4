"""A follower gets its leader's orders exactly, and one that missed an order ends rather than go on."""

import threading

import jax
import numpy as np
import pytest

from cluster import control_pb2
from cluster.lockstep import Followers, Leader, follow, orders_of
from lorajax.adapter_pages import LowRank, pack
from lorajax.batch import batch, buckets, example, fitting
from lorajax.config import EngineConfig
from lorajax.errors import EngineFailure
from lorajax.plan import Chunk, PageWrite, StepPlan
from lorajax.spec import TARGETS, Request, Sampling, Version
from tests.fakes import model_spec

SPEC = model_spec()
CONFIG = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)
VERSION = Version("ab" * 32)


class ArrayRunner:
    """Keeps what a device would be given."""

    sizes, kernels = None, "none"

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def host_page(self, adapter, index):
        return {
            target: (adapter.a[target][:, index], adapter.b[target][:, index])
            if target in adapter.a
            else self.zero_page()[target]
            for target in TARGETS
        }

    def zero_page(self):
        return {
            target: tuple(np.zeros((SPEC.num_layers, 8, width), np.float32) for width in SPEC.widths(target))
            for target in TARGETS
        }

    def put(self, page, pages):
        self.log.append(("put", page, pages))

    def arrays(self, plan):
        return batch(plan.chunks, fitting(plan.chunks, buckets(CONFIG)), 16, 4)

    def example(self, index):
        return example(buckets(CONFIG)[index], 16, 4)

    def bucket_index(self, arrays):
        return buckets(CONFIG).index(arrays.bucket)

    def advance(self, arrays):
        self.log.append(("advance", arrays.bucket, arrays.tokens, arrays.last_token, arrays.attention, arrays.lora))
        return ()

    def sample(self, plan, results):
        return {}


def _adapter():
    update = LowRank(a=np.arange(96, dtype=np.float32).reshape(12, 8), b=np.ones((8, 12), np.float32))
    return pack({(0, "q_proj"): update}, model=SPEC, version=VERSION)


def _plan(number, tokens, adapter_pages=()):
    request = Request(id="a", prompt=(3, 4, 5), sampling=Sampling(max_tokens=9))
    chunk = Chunk(
        request=request,
        tokens=tokens,
        start=0,
        kv_pages=(1,),
        adapter_pages=adapter_pages,
        output=(),
        num_output=0,
        samples=True,
    )
    return StepPlan(number=number, chunks=(chunk,), writes=(), fetches=(), releases=(), failed=())


def _orders(runner: ArrayRunner) -> list[control_pb2.Order]:
    """Two pages of an adapter, a prompt through it, and a step of the base."""
    orders: list[control_pb2.Order] = []
    leader = Leader(runner, orders.append)
    leader.write(
        (PageWrite(version=VERSION, index=0, page=2), PageWrite(version=VERSION, index=1, page=5)),
        {VERSION: _adapter()},
    )
    leader.run(_plan(1, (3, 4, 5), ((2, 1.0), (5, 1.0))))
    leader.run(_plan(2, (7,)))
    return orders


def test_a_follower_is_given_the_arrays_that_its_leader_used():
    leading, following = ArrayRunner(), ArrayRunner()
    follow(following, _orders(leading))
    assert jax.tree.structure(leading.log) == jax.tree.structure(following.log)
    assert all(map(np.array_equal, jax.tree.leaves(leading.log), jax.tree.leaves(following.log)))
    assert [entry[0] for entry in following.log] == ["put", "put", "advance", "advance"]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_follower_that_missed_an_order_ends(missing):
    orders = _orders(ArrayRunner())
    del orders[missing]
    with pytest.raises(EngineFailure, match="does not follow"):
        follow(ArrayRunner(), orders)


def test_a_follower_with_another_adapter_version_in_its_pages_ends():
    orders = _orders(ArrayRunner())
    orders[0].write.version = "cd" * 32
    following = ArrayRunner()
    with pytest.raises(EngineFailure, match="does not follow"):
        follow(following, orders)
    assert not following.log


def test_orders_reach_followers_over_grpc_and_end_with_the_leader():
    followers = Followers(range(2), on_lost=lambda: pytest.fail("nobody was lost"))
    address = followers.start("127.0.0.1")
    logs = [ArrayRunner(), ArrayRunner()]
    threads = [
        threading.Thread(target=lambda i=i: follow(logs[i], orders_of(lambda: address, i))) for i in range(len(logs))
    ]
    for thread in threads:
        thread.start()
    followers.wait(20)
    for order in _orders(ArrayRunner()):
        followers.send(order)
    followers.stop()
    for thread in threads:
        thread.join(20)
    assert [len(log.log) for log in logs] == [4, 4]


def test_a_leader_hears_of_a_follower_that_leaves():
    lost = threading.Event()
    followers = Followers([1], on_lost=lost.set)
    address = followers.start("127.0.0.1")
    orders = orders_of(lambda: address, 1)
    thread = threading.Thread(target=lambda: next(orders))
    thread.start()
    followers.wait(20)
    followers.send(_orders(ArrayRunner())[0])
    thread.join(20)
    orders.close()
    assert lost.wait(20)
    followers.stop()


def test_followers_that_do_not_come_are_an_error():
    followers = Followers([1], on_lost=lambda: None)
    followers.start("127.0.0.1")
    with pytest.raises(EngineFailure, match="0 of 1 followers came"):
        followers.wait(0.01)
    followers.stop()


def test_a_leader_that_does_not_come_is_an_error():
    with pytest.raises(EngineFailure, match="did not come within"):
        next(orders_of(lambda: "127.0.0.1:1", 1, timeout_s=0.01))
