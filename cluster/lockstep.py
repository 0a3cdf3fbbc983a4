"""A replica that spans processes. Owns: how its leader's orders reach the followers, and what they check first.

The leader schedules; every process then writes the same pages and launches the same steps, each on its own devices. A
follower that sees another number than it waits for, or other adapter versions in its pages, ends itself, and with it
the replica: it restarts as one rather than answer wrongly. Does not: schedule, sample, or know requests.
"""

import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import jax
import numpy as np

from cluster import control_pb2, control_pb2_grpc
from lorajax.adapter_pages import HostAdapter
from lorajax.batch import Batch
from lorajax.errors import EngineFailure
from lorajax.plan import PageWrite, StepPlan
from lorajax.runner import HostPage, Runner
from lorajax.spec import Token, Version

_LOG = logging.getLogger("lorajax")
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 2000),  # the keepalive timeout does not shorten it (grpc 1.85)
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),  # processes of a cluster ping each other every second
    ("grpc.so_reuseport", 0),
)
JOIN_S = 300.0
"""How long leader and followers wait for each other."""
_CONNECT_S = 2.0
_MAX_AHEAD = 64
"""Orders that a follower may lag; the leader waits then, though its collectives make it wait much sooner."""


class Followers:
    """The leader's end: one stream to each follower.

    `send` belongs to the engine thread; streams come and go on gRPC's.
    """

    def __init__(self, expected: Collection[int], on_lost: Callable[[], None]) -> None:
        """Wait for these processes; `on_lost` is called when a stream ends before `stop`."""
        self._expected = expected
        self._on_lost = on_lost
        self._queues: dict[int, queue.Queue[control_pb2.Order | None]] = {}
        self._complete = threading.Event()
        self._is_stopping = False
        self._server = grpc.server(ThreadPoolExecutor(len(expected), "followers"), options=_OPTIONS)
        control_pb2_grpc.add_LockstepServicer_to_server(self, self._server)

    def start(self, host: str) -> str:
        """Listen on a free port of an address of this machine; returns HOST:PORT."""
        port = self._server.add_insecure_port(f"{host}:0")
        self._server.start()
        return f"{host}:{port}"

    def wait(self, timeout_s: float) -> None:
        """Return once all are there. Raises EngineFailure after the timeout, and at once if `stop` is called."""
        if not self._complete.wait(timeout_s) or len(self._queues) < len(self._expected):
            raise EngineFailure(f"{len(self._queues)} of {len(self._expected)} followers came within {timeout_s:g} s")

    def send(self, order: control_pb2.Order) -> None:
        """Hand an order to every follower."""
        for waiting in self._queues.values():
            waiting.put(order)

    def stop(self) -> None:
        """Let every follower end well."""
        self._is_stopping = True
        self._complete.set()
        for waiting in self._queues.values():
            with contextlib.suppress(queue.Full):  # one that is far behind is cut
                waiting.put_nowait(None)
        self._server.stop(1.0).wait()

    def Follow(self, message: control_pb2.FollowRequest, context: grpc.ServicerContext) -> Iterator[control_pb2.Order]:
        """The stream of one follower."""
        if message.process not in self._expected or message.process in self._queues or self._complete.is_set():
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the replica is complete; it restarts as a whole")
        waiting = self._queues[message.process] = queue.Queue(_MAX_AHEAD)
        context.add_callback(lambda: self._ended(waiting))
        if len(self._queues) == len(self._expected):
            self._complete.set()
        yield from iter(waiting.get, None)

    def _ended(self, waiting: queue.Queue[control_pb2.Order | None]) -> None:
        with contextlib.suppress(queue.Full):  # then its thread is on its way out already
            waiting.put_nowait(None)
        if not self._is_stopping:
            self._on_lost()


class Leader:
    """A runner whose every order the followers carry out, too: what the leader's engine drives."""

    def __init__(self, runner: Runner, send: Callable[[control_pb2.Order], None]) -> None:
        """Drive `runner`, and everybody behind `send`."""
        self.sizes = runner.sizes
        self.kernels = runner.kernels
        self._runner = runner
        self._send = send
        self._number = 0
        self._digest = b""

    def write(self, writes: tuple[PageWrite, ...], adapters: Mapping[Version, HostAdapter]) -> None:
        """Copy pages of host adapters into device pages, everywhere."""
        for order in writes:
            pages = self._runner.host_page(adapters[order.version], order.index)
            message = control_pb2.PageWrite(version=order.version, index=order.index, page=order.page)
            message.arrays.extend(np.ascontiguousarray(array).tobytes() for array in jax.tree.leaves(pages))
            self._digest = _digest(self._digest, message)
            self._tell(control_pb2.Order(write=message))
            self._runner.put(order.page, pages)

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        """One token for each chunk that samples."""
        if not plan.chunks:
            return {}
        arrays = self._runner.arrays(plan)
        self._tell(control_pb2.Order(step=_step(arrays, self._runner.bucket_index(arrays))))
        return self._runner.sample(plan, self._runner.advance(arrays))

    def _tell(self, order: control_pb2.Order) -> None:
        self._number += 1
        order.number, order.digest = self._number, self._digest
        self._send(order)


def follow(runner: Runner, orders: Iterable[control_pb2.Order]) -> None:
    """Carry orders out until they end. Raises EngineFailure at the first that does not fit those before it."""
    digest = b""
    for number, order in enumerate(orders, start=1):
        if order.HasField("write"):
            digest = _digest(digest, order.write)
        if (order.number, order.digest) != (number, digest):
            raise EngineFailure(f"order {order.number} does not follow {number - 1}; ending the replica")
        try:
            _carry_out(runner, order)
        except ValueError as error:
            raise EngineFailure(f"order {order.number} does not fit this process: {error}") from error


def _carry_out(runner: Runner, order: control_pb2.Order) -> None:
    if order.HasField("write"):
        runner.put(order.write.page, _pages(runner.zero_page(), order.write))
    else:
        jax.block_until_ready(runner.advance(_arrays(runner.example(order.step.bucket), order.step)))


def orders_of(find_leader: Callable[[], str], process: int, timeout_s: float = JOIN_S) -> Iterator[control_pb2.Order]:
    """The orders of the leader at an address, which may still be that of an earlier life, so it is asked for again.

    Raises: EngineFailure when the leader does not come, or is lost.
    """
    with _connected(find_leader, timeout_s) as channel:
        try:
            yield from control_pb2_grpc.LockstepStub(channel).Follow(control_pb2.FollowRequest(process=process))
        except grpc.RpcError as error:
            raise EngineFailure(
                f"the leader of this replica is gone ({error.code().name}); ending the replica"
            ) from None


def _connected(find_leader: Callable[[], str], timeout_s: float) -> grpc.Channel:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        channel = grpc.insecure_channel(find_leader(), options=_OPTIONS)
        try:
            grpc.channel_ready_future(channel).result(_CONNECT_S)
        except grpc.FutureTimeoutError:
            channel.close()
        else:
            return channel
    raise EngineFailure(f"the leader of this replica did not come within {timeout_s:g} s; ending the replica")


def _digest(before: bytes, write: control_pb2.PageWrite) -> bytes:
    return hashlib.sha256(before + f"{write.version} {write.index} {write.page}".encode()).digest()[:16]


def _step(arrays: Batch, bucket: int) -> control_pb2.Step:
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(_inputs(arrays))]
    return control_pb2.Step(bucket=bucket, has_adapters=arrays.lora is not None, leaves=leaves)


def _arrays(example: Batch, step: control_pb2.Step) -> Batch:
    """The leader's arrays: those of an example of their bucket tell how they lie in memory."""
    example = example if step.has_adapters else replace(example, lora=None)
    likes, shape = jax.tree.flatten(_inputs(example))
    leaves = (
        np.frombuffer(leaf, like.dtype).reshape(like.shape) for leaf, like in zip(step.leaves, likes, strict=True)
    )
    tokens, last_token, attention, lora = jax.tree.unflatten(shape, leaves)
    return replace(example, tokens=tokens, last_token=last_token, attention=attention, lora=lora)


def _inputs(arrays: Batch) -> tuple[object, ...]:
    return arrays.tokens, arrays.last_token, arrays.attention, arrays.lora


def _pages(example: HostPage, write: control_pb2.PageWrite) -> HostPage:
    likes, shape = jax.tree.flatten(example)
    arrays = (
        np.frombuffer(array, like.dtype).reshape(like.shape) for array, like in zip(write.arrays, likes, strict=True)
    )
    return dict(jax.tree.unflatten(shape, arrays))
