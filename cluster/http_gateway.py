"""HTTP before a cluster. Owns: how a caller of HTTP passes through the front door, under all of its rules.

Does not: route (front_door.py does) or decide on adapters (the coordinator does). The model's tokenizer is read here,
for answers with log probabilities. Imported only where HTTP is asked for; it needs no JAX.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from checkpoints import shapes, tokenizer
from cluster import call_wire, proxy, serving_pb2, serving_pb2_grpc
from cluster.calls import Call
from cluster.front_door import MAX_WAITING, FrontDoor
from cluster.http_front import Served, Write, http_front
from cluster.http_server import HttpServer
from cluster.metrics import Metrics
from lorajax.errors import Unavailable


def gateway_front(address: str, model: Path, services: "Cluster", metrics: Metrics) -> HttpServer:
    """A server on `address` before a cluster that serves `model`.

    Raises: LorajaxError if the model's shape or tokenizer cannot be read.
    """
    encoder, _ = tokenizer.load(model)
    served = Served(
        model_name=model.name,
        max_model_len=shapes.read_spec(model).max_model_len,
        max_streams=MAX_WAITING,
        token_text=encoder.token_text,
    )
    return http_front(address, served, services, metrics)


class Cluster:
    """A cluster as HTTP asks it: requests go by the front door, adapters to the coordinator."""

    def __init__(self, door: FrontDoor, coordinator: grpc.aio.Channel, is_serving: Callable[[], bool]) -> None:
        """Ask these; `is_serving` says what health says."""
        self._door = door
        self._coordinator = serving_pb2_grpc.AdaptersStub(coordinator)
        self._is_serving = is_serving

    def require_serving(self) -> None:
        """Raise Unavailable unless requests are taken."""
        if not self._is_serving():
            raise Unavailable("the cluster is starting, going, or without a host; try again")

    def require(self, name: str) -> None:
        """Raise UnknownAdapter unless the name stands for an adapter."""
        self._door.registration(name)

    def adapters(self) -> Iterator[tuple[str, str]]:
        """(name, source) of every adapter, by name."""
        return ((one.name, one.adapter.path) for one in self._door.registrations)

    async def answer(self, call: Call, write: Write) -> None:
        """Ask the host that the front door picks."""
        await self._door.Generate(call_wire.call_to_proto(call), _Caller(write))

    async def load(self, name: str, path: str, *, replace: bool) -> None:
        """Register a folder below an adapter root; a host reads it."""
        message = serving_pb2.LoadAdapterRequest(name=name, path=path, replace=replace)
        await proxy.answered(self._coordinator.Load(message), self._door.follow)

    async def unload(self, name: str, *, force: bool) -> None:
        """Take a name away; requests that run on it finish."""
        message = serving_pb2.UnloadAdapterRequest(name=name, force=force)
        await proxy.answered(self._coordinator.Unload(message), self._door.follow)


class _Caller:
    """A caller of HTTP as the front door sees one: it has no deadline, and leaves by cancelling."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Nothing came with the request."""
        return ()

    def time_remaining(self) -> float | None:
        """For ever."""
        return None

    async def write(self, reply: bytes) -> None:
        """Send a serialized GenerateReply on."""
        for part in call_wire.parts_of(serving_pb2.GenerateReply.FromString(reply)):
            await self._write(part)
