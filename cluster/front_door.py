"""Inference over many hosts. Owns: a request's way to a host and back, and its second try on another host.

Does not: know where adapters are (the router believes the table), render prompts, or look into answers. A request that
has had no token is tried elsewhere when its host refuses or is lost; one that has had some ends with a clear status.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import grpc

from cluster import control_wire, serving_pb2, wire
from cluster.calls import Call
from cluster.flights import Flights, has_left
from cluster.gate import Gates, Place
from cluster.host_channels import HostChannels
from cluster.metrics import ClusterSnapshot, Metrics
from cluster.names import unknown
from cluster.passage import Caller, Passage, is_elsewhere, is_gone, max_tokens, prompt_tokens
from cluster.routing import Ask, Route, Router
from cluster.view import MAX_PEERS, HostLoad, HostName, HostState, HostView, Registration, Table
from lorajax.errors import Unavailable, UnknownAdapter
from lorajax.spec import Level, Version

_LOG = logging.getLogger("lorajax")
MAX_TRIES = 4
TENANT_KEY = "lorajax-tenant"
PER_SEQUENCE = 2
"""Requests sent to a host for every sequence it decodes at once: enough that it never waits for the next one."""
MAX_WAITING = 16_384
_FOLLOW_S = 2.0
"""How long an answer of the coordinator is kept from its caller until this front door goes by it: the news may be lost
with the coordinator."""
REJOIN_S = 1.5
"""How long a host that counts as lost may say nothing: its line to the coordinator may have broken, not the host, and
one that has left in good order has answered in full, but the news of it may be faster."""


@dataclass(eq=False, slots=True)
class _Try:
    """One request at one host."""

    route: Route
    call: grpc.aio.UnaryStreamCall
    last_s: float
    """When its last tokens came; before the first, when the request did."""
    num_replies: int = 0
    is_writing: bool = False
    """Whether the caller is yet to take a reply: its host cannot be heard meanwhile."""
    has_final: bool = False


class FrontDoor:
    """Answers `lorajax.v1.Inference` by asking hosts. Runs on the event loop.

    Invariant: a request is at one host at most, and no reply of a second try follows one of a first.
    """

    def __init__(self, router: Router, channels: HostChannels, metrics: Metrics) -> None:
        """Route by `router`, over `channels`; refuses everything until `update`. Tokens are counted in `metrics`."""
        self._router = router
        self._channels = channels
        self._metrics = metrics
        self.flights = Flights()
        self._table: Table | None = None
        self._changed = asyncio.Event()
        self._names: list[str] = []
        self._hosts: dict[HostName, HostView] = {}
        self._loads: dict[HostName, HostLoad] = {}
        self._gates = Gates(lambda: most_inside(self._hosts.values()), MAX_WAITING)
        self._tries: dict[HostName, set[_Try]] = {}

    async def close(self) -> None:
        """Close the lines to the hosts."""
        await self._channels.close()

    def update(self, table: Table) -> None:
        """Route by a new table; what runs on a host that is lost, or has started anew, is lost too."""
        self._table, self._names = table, sorted(table.registrations)
        with self._gates.noticing(self._router.holds, table.hosts):
            self._router.update(table)
        for name, host in self._hosts.items():
            new = table.hosts.get(name)
            if new is None or new.state is HostState.LOST or new.spec.incarnation != host.spec.incarnation:
                self._lose(name)
        self._hosts = dict(table.hosts)
        self._loads = {name: load for name, load in self._loads.items() if name in self._hosts}
        self._channels.keep({host.spec.address for host in table.hosts.values()})
        self._gates.admit()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, number: int) -> None:
        """Return once requests are routed by the table of this number or a later one; soon, come what may."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FOLLOW_S):
                while self._table is None or self._table.number < number:
                    await self._changed.wait()

    @property
    def num_serving(self) -> int:
        """Hosts that take requests."""
        return sum(host.state is HostState.SERVING for host in self._hosts.values())

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The adapters of the last table, by name."""
        return () if self._table is None else tuple(self._table.registrations[name] for name in self._names)

    def snapshot(self) -> ClusterSnapshot:
        """How busy the cluster is, as far as is known here."""
        states = {name: (host.state, self._loads.get(name, host.load)) for name, host in self._hosts.items()}
        return ClusterSnapshot(num_inside=len(self.flights), num_waiting=self._gates.num_waiting, hosts=states)

    async def Generate(self, message: serving_pb2.GenerateRequest, context: Caller) -> None:
        """Stream one completion from the host that the router picks."""
        call = wire.call_from_proto(message)
        for name, _ in call.adapters:
            self.registration(name)
        message.request_id = call.request_id or uuid.uuid4().hex
        tenant = dict(context.invocation_metadata() or ()).get(TENANT_KEY, "")
        cost, arrived_s = prompt_tokens(call) + max_tokens(call), time.monotonic()
        with self.flights.open(message.request_id):
            async with self._gates.hosts.entered(str(tenant), message.request_id, cost) as place:
                await self._relay(lambda: self._passage(call, message, context, arrived_s), place)

    def _passage(self, call: Call, message: serving_pb2.GenerateRequest, caller: Caller, arrived_s: float) -> Passage:
        """The request as hosts get it: adapters by version. Raises UnknownAdapter or Unavailable."""
        adapters = tuple(self.registration(name) for name, _ in call.adapters)
        del message.adapters[:]
        for registration, (_, weight) in zip(adapters, call.adapters, strict=True):
            message.adapters.add(name=registration.adapter.version, weight=weight)
        remaining_s = caller.time_remaining()
        ask = Ask(
            versions=tuple(registration.adapter.version for registration in adapters),
            prompt_tokens=prompt_tokens(call),
            max_tokens=max_tokens(call),
            deadline_s=None if remaining_s is None else time.monotonic() + remaining_s,
        )
        return Passage(
            request_id=message.request_id,
            message=message,
            ask=ask,
            adapters=adapters,
            arrived_s=arrived_s,
            caller=caller,
        )

    def registration(self, name: str) -> Registration:
        """What a name stands for. Raises: UnknownAdapter; Unavailable before the first table."""
        if self._table is None:
            raise Unavailable("the cluster is starting; try again")
        if name not in self._table.registrations:
            raise UnknownAdapter(unknown(name, self._names))
        return self._table.registrations[name]

    async def _relay(self, asked: Callable[[], Passage], place: Place) -> None:
        tried: set[HostName] = set()
        refusal: Exception | None = None
        for _ in range(MAX_TRIES):
            try:
                passage, route = await self._route(asked, place, tried)
            except Exception:
                if refusal is None:
                    raise
                break
            tried.add(route.host)
            refusal = await self._try(passage, route, place)
            if refusal is None:
                return
        assert refusal is not None
        raise refusal

    async def _route(self, asked: Callable[[], Passage], place: Place, tried: set[HostName]) -> tuple[Passage, Route]:
        """The router's choice, and for it a place: with those who wait for the same adapter where its host lacks it."""
        while True:
            passage = asked()  # anew after each wait: a version that a name stood for may be dropped meanwhile
            route = self._router.choose(passage.ask, time.monotonic(), exclude=frozenset(tried))
            missing = next((fetch.adapter.version for fetch in route.fetches), None)
            if await place.enter(self._gates.of(missing)):
                return passage, route

    async def _try(self, passage: Passage, route: Route, place: Place) -> Exception | None:
        """Ask one host; None once it has answered in full, or why another one may be asked. Raises what is final."""
        stub = self._channels.generate(route.address)
        call = stub(passage.message, timeout=passage.caller.time_remaining(), metadata=self._hints(passage, route))
        attempt = _Try(route, call, passage.arrived_s)
        self._tries.setdefault(route.host, set()).add(attempt)
        self._router.started(passage.request_id, route, passage.ask)
        try:
            async for reply in attempt.call:
                if not attempt.num_replies:
                    place.enter_now(self._gates.hosts)
                    self._router.first_token(passage.request_id, time.monotonic())
                attempt.num_replies += 1
                attempt.is_writing = True
                await passage.caller.write(reply)
                attempt.is_writing = False
                self._count(passage, attempt, serving_pb2.GenerateReply.FromString(reply))
        except grpc.aio.AioRpcError as error:
            return None if attempt.has_final else self._judged(passage, attempt, error)
        except asyncio.CancelledError:
            if has_left():
                raise
            # Its channel was closed, or its host is lost.
            return None if attempt.has_final else self._judged(passage, attempt, None)
        finally:
            attempt.call.cancel()
            self._tries[route.host].discard(attempt)
            self._router.ended(passage.request_id, time.monotonic())
        return None

    def _count(self, passage: Passage, attempt: _Try, reply: serving_pb2.GenerateReply) -> None:
        self._router.generated(passage.request_id, len(reply.tokens))
        if reply.tokens:
            now_s, is_first = time.monotonic(), attempt.num_replies == 1
            self._metrics.generated(len(reply.tokens), now_s - attempt.last_s, now_s, is_first=is_first)
            attempt.last_s = now_s
        if reply.HasField("final"):
            attempt.has_final = True
            self._metrics.accepted(reply.final.usage.prompt_tokens)

    def _judged(self, passage: Passage, attempt: _Try, error: grpc.aio.AioRpcError | None) -> Exception:
        """Why the try ended, where another host may still answer; raises where it is final."""
        host = attempt.route.host
        if error is None or is_gone(error):
            self._router.failed(host, time.monotonic())
            why = "the cluster lost it" if error is None else f"{error.code().name}: {error.details()}"
            _LOG.warning("host %s does not answer: %s", host, why)
            if attempt.num_replies:
                words = f"host {host} was lost after {attempt.num_replies} replies; ask again"
                raise wire.Relayed(grpc.StatusCode.ABORTED, words)
            return Unavailable(f"host {host} was lost, or cannot be reached; ask again")
        relayed = wire.Relayed.of(error, {one.adapter.version: one.name for one in passage.adapters})
        if attempt.num_replies or not is_elsewhere(error):
            raise relayed
        return relayed

    def _hints(self, passage: Passage, route: Route) -> tuple[tuple[str, bytes], ...]:
        """Where the host finds each adapter; also those that it seems to have: they may be dropped meanwhile."""
        missing = {fetch.adapter.version: fetch.peers for fetch in route.fetches}
        hints = []
        for one in passage.adapters:
            peers = missing.get(one.adapter.version) or self._holders(one.adapter.version, route.host)
            places = tuple((name, self._hosts[name].spec.address) for name in peers if name in self._hosts)
            hints.append((control_wire.FETCH_KEY, control_wire.fetch_hint(one.adapter, places)))
        return tuple(hints)

    def _holders(self, version: Version, host: HostName) -> Iterable[HostName]:
        holders = (name for name, view in self._hosts.items() if name != host and _can_give(view, version))
        return islice(holders, MAX_PEERS)

    def beat(self, host: HostName, state: HostState, load: HostLoad, copies: Mapping[Version, Level] | None) -> None:
        """Route by what a host has just said."""
        self._loads[host] = load
        with self._gates.noticing(self._router.holds, (host,)):
            self._router.beat(host, state, load, copies, time.monotonic())

    def handlers(self) -> grpc.GenericRpcHandler:
        """The Inference service; replies pass as the bytes they came as."""
        handler = grpc.unary_stream_rpc_method_handler(
            self.Generate, request_deserializer=serving_pb2.GenerateRequest.FromString
        )
        return grpc.method_handlers_generic_handler("lorajax.v1.Inference", {"Generate": handler})

    def _lose(self, host: HostName) -> None:
        """End what stands still there from now on; what goes on was cut off from the coordinator alone."""
        self._end_later(host, self._hosts[host].spec.incarnation, self._tries.get(host, ()))

    def _end_later(self, host: HostName, life: int, tries: Iterable[_Try]) -> None:
        heard = {attempt: attempt.num_replies for attempt in tries}
        if heard:
            asyncio.get_running_loop().call_later(REJOIN_S, self._end, host, life, heard)

    def _end(self, host: HostName, life: int, heard: Mapping[_Try, int]) -> None:
        now = self._hosts.get(host)
        if now is not None and now.state is not HostState.LOST and now.spec.incarnation == life:
            return
        going = heard.keys() & self._tries.get(host, set())
        silent = {one for one in going if not one.is_writing and one.num_replies == heard[one]}
        for attempt in silent:
            attempt.call.cancel()
        self._end_later(host, life, going - silent)


def most_inside(hosts: Iterable[HostView]) -> int:
    """Requests that are sent on at once; where no host is left nobody waits for one, so that all are told."""
    serving = sum(host.spec.max_sequences for host in hosts if host.state is HostState.SERVING)
    return PER_SEQUENCE * serving or MAX_WAITING


def _can_give(host: HostView, version: Version) -> bool:
    return host.state in (HostState.SERVING, HostState.DRAINING) and host.holds(version)
