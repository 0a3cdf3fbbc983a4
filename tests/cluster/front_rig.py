"""The real front door before hosts that answer by a script.

Owns: the hosts, their order and the servers between. Does not: know what the front door does with the answers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
from prometheus_client import CollectorRegistry

from cluster import control_wire, serving_pb2_grpc
from cluster import serving_pb2 as pb
from cluster.front_door import FrontDoor
from cluster.host_channels import HostChannels
from cluster.metrics import Metrics
from cluster.routing import Fetch, Route
from cluster.server import Server
from cluster.view import Adapter, HostName, HostSpec, HostState, HostView, Registration, Table
from lorajax.errors import Unavailable
from lorajax.spec import Level, Version

PUSHBACK = (("grpc-retry-pushback-ms", "100"),)
PIRATE, SAILOR = Version("a1" * 32), Version("b2" * 32)

_REFUSALS = {
    "end": (grpc.StatusCode.CANCELLED,),
    "drain": (grpc.StatusCode.UNAVAILABLE, "draining", PUSHBACK),
    "full": (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full", PUSHBACK),
    "lost": (grpc.StatusCode.UNAVAILABLE, f"adapter {PIRATE} cannot be had", PUSHBACK),
    "bad": (grpc.StatusCode.INVALID_ARGUMENT, f"adapter {PIRATE} does not fit"),
}


class ScriptedHost:
    """Answers as its script says: whole numbers are tokens, others seconds of silence; the rest is done by name.

    What it does for PIRATE alone comes after "pirate".
    """

    def __init__(self, name: str, *script: float | str) -> None:
        self.name, self.script = name, script
        self.asked: list[pb.GenerateRequest] = []
        self.hints: list[bytes] = []
        self.reached: asyncio.Queue[str] = asyncio.Queue()
        self.may_go_on = asyncio.Event()
        self.server: grpc.aio.Server

    async def Generate(self, request, context):
        self.asked.append(request)
        self.hints += [value for key, value in context.invocation_metadata() if key == control_wire.FETCH_KEY]
        for line in self._lines(request):
            await self.reached.put(str(line))
            if isinstance(line, int):
                yield pb.GenerateReply(tokens=[pb.Token(id=line)])
            elif isinstance(line, float):
                await asyncio.sleep(line)
            elif line == "final":
                yield self._final(request)
            elif line == "hang":
                await asyncio.Event().wait()
            elif line == "wait":
                await self.may_go_on.wait()
            else:
                await context.abort(*_REFUSALS[line])
        yield self._final(request)

    def _lines(self, request):
        """The script; of what is for PIRATE alone, only its requests hear."""
        if "pirate" not in self.script or PIRATE in [use.name for use in request.adapters]:
            return [line for line in self.script if line != "pirate"]
        return self.script[: self.script.index("pirate")]

    def _final(self, request):
        return pb.GenerateReply(final=pb.Final(finish_reason="length", host=self.name, request_id=request.request_id))


@dataclass
class InOrder:
    """A router that takes the hosts in their order, and believes that they lack what is in `missing`."""

    hosts: dict[HostName, str]
    failed_hosts: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    missing: set[Version] = field(default_factory=set)
    came: dict[Version, HostName] = field(default_factory=dict)
    """Where what was missing is now."""

    def update(self, table):
        pass

    def beat(self, host, state, load, copies, now_s):
        self.came |= {version: host for version in copies or () if version in self.missing}

    def choose(self, ask, now_s, exclude=frozenset()):
        lacking = [version for version in ask.versions if version in self.missing and version not in self.came]
        there = [self.came[version] for version in ask.versions if version in self.came] or self.hosts
        for name, address in self.hosts.items():
            if name not in exclude and name in there:
                missing = [_registration("", version).adapter for version in lacking]
                fetches = tuple(Fetch(adapter=adapter, peers=()) for adapter in missing)
                return Route(host=name, address=address, fetches=fetches, first_token_s=0.0, chosen_s=now_s)
        raise Unavailable("no host serves")

    def holds(self, host, version):
        return version not in self.missing or self.came.get(version) == host

    def started(self, request_id, route, ask):
        self.running.add(request_id)

    def ended(self, request_id, now_s):
        self.running.discard(request_id)

    def failed(self, host, now_s):
        self.failed_hosts.append(host)

    def first_token(self, request_id, now_s):
        pass

    def generated(self, request_id, num_tokens):
        pass


@dataclass
class Rig:
    """A front door before scripted hosts."""

    door: FrontDoor
    router: InOrder
    hosts: dict[str, ScriptedHost]
    stub: serving_pb2_grpc.InferenceStub
    addresses: dict[str, str]

    def table(self, **states: HostState) -> Table:
        return Table(
            number=1,
            round=1,
            hosts={name: _view(name, self.addresses[name], states.get(name, HostState.SERVING)) for name in self.hosts},
            registrations={
                "pirate": _registration("pirate", PIRATE),
                "sailor": _registration("sailor", SAILOR),
            },
            shares={},
        )

    def ask(self, *adapters: str, request_id="", timeout=None, **sampling):
        request = pb.GenerateRequest(
            request_id=request_id, text="hello", sampling=pb.Sampling(max_tokens=4, **sampling)
        )
        request.adapters.extend(pb.AdapterUse(name=name) for name in adapters)
        return self.stub.Generate(request, timeout=timeout)


def _registration(name, version):
    return Registration(name=name, adapter=Adapter(version=version, rank=8, num_bytes=1, path="/store/pirate"))


def _view(name, address, state):
    spec = HostSpec(
        name=HostName(name), address=address, incarnation=1, host_bytes=1, num_adapter_pages=1, max_sequences=4
    )
    return HostView(spec=spec, state=state, copies={PIRATE: Level.HOST} if name == "b" else {})


@contextlib.asynccontextmanager
async def serving(*hosts: ScriptedHost) -> AsyncIterator[Rig]:
    addresses = {}
    for host in hosts:
        host.server = grpc.aio.server()
        serving_pb2_grpc.add_InferenceServicer_to_server(host, host.server)
        addresses[host.name] = f"127.0.0.1:{host.server.add_insecure_port('127.0.0.1:0')}"
        await host.server.start()
    router = InOrder({HostName(name): address for name, address in addresses.items()})
    door = FrontDoor(router, HostChannels(), metrics := Metrics(CollectorRegistry()))
    server = Server((door.handlers(),), metrics)
    port = server.grpc.add_insecure_port("127.0.0.1:0")
    await server.grpc.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        rig = Rig(door, router, {host.name: host for host in hosts}, serving_pb2_grpc.InferenceStub(channel), addresses)
        door.update(rig.table())
        try:
            yield rig
        finally:
            await server.stop()
            await door.close()
            for host in hosts:
                await host.server.stop(None)
