"""A host's line to the coordinator. Owns: hello, beats, and that each order on a line is answered once.

Does not: decide anything, or disturb serving: while the coordinator is away, what is here is served on, and the line is
tried again for ever. An outcome belongs to the line that its order came by: to a new one the host says what it has.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc

from cluster import control_pb2, control_pb2_grpc
from cluster.adapter_pool import AdapterPool
from cluster.admission import Admission
from cluster.control_wire import Identity, beat_to_proto, hello_to_proto
from cluster.events import HostBeat
from cluster.order_runner import OrderRunner
from cluster.peer import Peer, pull
from cluster.seams import Parts, WorkerConfig
from cluster.tickets import Links, NoLinks, Tickets
from cluster.view import HostLoad, HostName, HostSpec, HostState
from cluster.worker_adapters import Adapters
from lorajax.spec import Level, Version

_LOG = logging.getLogger(__name__)
BEAT_S = 0.5
GATHER_S = 0.02
"""Changes that come within this time share a beat."""
_MIN_WAIT_S, _MAX_WAIT_S = 0.1, 0.5
"""Between two tries to reach the coordinator: one that comes back can do nothing before its hosts have."""
_UP_S = 3.0
"""A line that has lasted longer was up: a try takes less."""
_CHANNEL_OPTIONS = (
    # A coordinator that is stopped or cut off keeps its connection: only an unanswered ping tells.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 2000),  # 60 s otherwise, and keepalive_timeout_ms does not shorten it
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # the time that a connection may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """How a host takes part in a cluster."""

    coordinator: str
    """HOST:PORT."""
    fingerprint: str
    """Of model, dtype and software; the coordinator refuses any other than its own."""
    incarnation: int
    """Larger after every start of this host."""
    host_bytes: int
    """Host memory for adapters."""
    max_sequences: int
    """Sequences decoded together."""
    speed: float = 1.0
    """Relative to the host that was profiled."""
    links: Links | None = None
    """Its collectives with other hosts; None where it shares no JAX world with them."""


@dataclass(eq=False, slots=True)
class _Line:
    """One connection: what it was told, and what it still has to be told."""

    call: grpc.aio.StreamStreamCall
    copies: dict[Version, Level]
    outcomes: list[control_pb2.Outcome] = field(default_factory=list)


class Membership:
    """A host's part in a cluster; `seams.Member`. Owner: the event loop.

    Invariant: on each line a beat with the copies that an order has changed comes before the order's outcome.
    """

    def __init__(
        self,
        config: MemberConfig,
        worker: WorkerConfig,
        parts: Parts,
        admission: Admission,
        adapters: Adapters,
        drain: Callable[[], int],
    ) -> None:
        """Speak for the worker of these parts; nobody is called before `start`."""
        self._config = config
        self._worker = worker
        self._parts = parts
        self._admission = admission
        self._pool = AdapterPool(worker, parts, adapters, pull, self.changed)
        host, links = HostName(worker.host), NoLinks() if config.links is None else config.links
        self._tickets = Tickets(links, host, config.incarnation, lambda: parts.engine.stats().num_running > 0)
        self._orders = OrderRunner(host, self._pool, self._tickets, drain)
        self._peer = Peer(self._pool.export, self._tickets.prepared)
        self._tokens: Counter[Version] = Counter()
        self._news = asyncio.Event()
        self._started_s = time.monotonic()
        self._said = ""
        self._running: asyncio.Task[None] | None = None

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What it answers other hosts: adapters."""
        return (self._peer.handlers(),)

    def start(self, address: str) -> None:
        """Join, and join again whenever the line breaks, until `stop`."""
        self._running = asyncio.create_task(self._run(address))

    def changed(self) -> None:
        """Beat at once."""
        self._news.set()

    async def bring(self, names: Iterable[str], hints: Iterable[bytes]) -> float:
        """As `seams.Member.bring`."""
        return await self._pool.bring(names, hints)

    def used(self, versions: Iterable[Version], num_tokens: int) -> None:
        """Count tokens towards the next beat."""
        for version in versions:
            self._tokens[version] += num_tokens

    async def stop(self) -> None:
        """Leave: the coordinator sees it at once."""
        self._tickets.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._orders.close()

    async def _run(self, address: str) -> None:
        wait_s = _MIN_WAIT_S
        async with grpc.aio.insecure_channel(self._config.coordinator, options=_CHANNEL_OPTIONS) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            while True:
                began_s = time.monotonic()
                try:
                    await self._live(stub, address)
                except Exception:  # noqa: BLE001  # a bug here must not end what is served
                    _LOG.exception("the line to the coordinator failed")
                if time.monotonic() - began_s > _UP_S:
                    wait_s, self._said = _MIN_WAIT_S, ""
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
                wait_s = min(2 * wait_s, _MAX_WAIT_S)

    async def _live(self, stub: control_pb2_grpc.ControlStub, address: str) -> None:
        """One line, until it breaks. Raises only what is a bug."""
        line = _Line(stub.Join(), self._pool.copies())
        both = asyncio.create_task(self._speak(line, address)), asyncio.create_task(self._listen(line))
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            line.call.cancel()
            for task in both:
                task.cancel()
            results = await asyncio.gather(*both, return_exceptions=True)
        for result in results:
            # The second is a write after the end of the line.
            if isinstance(result, Exception) and not isinstance(
                result, grpc.aio.AioRpcError | asyncio.InvalidStateError
            ):
                raise result
        self._say(f"{(await line.call.code()).name} {await line.call.details()}")

    def _say(self, words: str) -> None:
        """Log why there is no line, once for each reason."""
        if words != self._said:
            self._said = words
            _LOG.warning("without coordinator %s, serving on: %s", self._config.coordinator, words)

    async def _speak(self, line: _Line, address: str) -> None:
        """Say hello, then beat."""
        hello = hello_to_proto(self._spec(address), self._identity(), self._beat(line.copies, is_news=True))
        await line.call.write(control_pb2.HostMessage(hello=hello))
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._news.wait()
                await asyncio.sleep(GATHER_S)
            self._news.clear()
            outcomes, line.outcomes = line.outcomes, []  # before the copies are looked at
            copies = self._pool.copies()
            beat = self._beat(copies, is_news=copies != line.copies)
            line.copies = copies
            await line.call.write(control_pb2.HostMessage(beat=beat))
            for outcome in outcomes:
                await line.call.write(control_pb2.HostMessage(outcome=outcome))

    async def _listen(self, line: _Line) -> None:
        """Carry out what comes, side by side; what has not ended when the line does is not answered."""
        orders: set[asyncio.Task[None]] = set()
        try:
            async for message in line.call:
                order = asyncio.create_task(self._carry_out(message, line))
                orders.add(order)
                order.add_done_callback(orders.discard)
        finally:
            for order in tuple(orders):
                order.cancel()

    async def _carry_out(self, message: control_pb2.HostCommand, line: _Line) -> None:
        outcome = await self._orders.outcome(message)  # first: meanwhile the list is replaced
        line.outcomes.append(outcome)
        self.changed()

    def _spec(self, address: str) -> HostSpec:
        return HostSpec(
            name=HostName(self._worker.host),
            address=address,
            incarnation=self._config.incarnation,
            host_bytes=self._config.host_bytes,
            num_adapter_pages=self._parts.engine.stats().adapter_pages_total,
            max_sequences=self._config.max_sequences,
            can_collect=self._config.links is not None,
            speed=self._config.speed,
        )

    def _identity(self) -> Identity:
        worker = self._worker
        return Identity(
            fingerprint=self._config.fingerprint, model=worker.model_name, software_version=worker.software_version
        )

    def _beat(self, copies: dict[Version, Level], *, is_news: bool) -> control_pb2.Beat:
        """How the host is now; tokens that are told are not told again."""
        tokens, self._tokens = self._tokens, Counter()
        now_s = time.monotonic()
        beat = HostBeat(
            host=HostName(self._worker.host),
            incarnation=self._config.incarnation,
            state=HostState(self._admission.state.value),
            load=self._load(now_s),
            tokens=tokens,
            copies=copies if is_news else None,
            now_s=now_s,
        )
        return beat_to_proto(beat, now_s - self._started_s)

    def _load(self, now_s: float) -> HostLoad:
        stats = self._parts.engine.stats()
        return HostLoad(
            num_running=stats.num_running,
            num_waiting=max(0, len(self._admission) - stats.num_running),
            waiting_tokens=self._admission.num_waiting_tokens,
            kv_pages_free=stats.kv_pages_free,
            kv_pages_total=stats.kv_pages_total,
            adapter_pages_free=stats.adapter_pages_free,
            adapter_pages_total=stats.adapter_pages_total,
            tokens_per_s=self._parts.metrics.tokens_per_s(now_s),
        )
