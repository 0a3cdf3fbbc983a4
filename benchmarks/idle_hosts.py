"""A cluster with nothing in it: a process that answers as a coordinator and as hosts that never have to compute.

Owns: the table that a gateway gets, and answers of as many tokens as were asked for, `sampling.seed` of them a message.
Run as `python -m benchmarks.idle_hosts HOSTS ADAPTERS`; prints its addresses as JSON. Does not: decide anything.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import grpc

from cluster import control_pb2, control_wire, serving_pb2
from cluster.view import Adapter, HostName, HostSpec, HostState, HostView, Registration, Share, Table
from lorajax.spec import Level, Version

_RANKS = (8, 16, 32, 64, 128)
_MAX_SEQUENCES = 256
_OPTIONS = (("grpc.http2.max_ping_strikes", 0),)


async def main(num_hosts: int, num_adapters: int) -> None:
    """Answer until killed."""
    servers = [grpc.aio.server(options=_OPTIONS) for _ in range(num_hosts + 1)]
    addresses = [f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}" for server in servers]
    coordinator, *hosts = servers
    for host in hosts:
        generate = grpc.unary_stream_rpc_method_handler(_generate, serving_pb2.GenerateRequest.FromString)
        host.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("lorajax.v1.Inference", {"Generate": generate}),)
        )
    update = control_pb2.TableUpdate(table=control_wire.table_to_proto(_table(addresses[1:], num_adapters)))
    update.table.is_ready = True

    async def watch(_message: bytes, _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield update.SerializeToString()
        await asyncio.Event().wait()

    handlers = {"WatchTable": grpc.unary_stream_rpc_method_handler(watch)}
    coordinator.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("lorajax.control.v1.Control", handlers),)
    )
    await asyncio.gather(*(server.start() for server in servers))
    print(json.dumps(addresses), flush=True)
    await coordinator.wait_for_termination()


async def _generate(request: serving_pb2.GenerateRequest, _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    per_message = request.sampling.seed
    tokens = [serving_pb2.Token(id=1000 + number, text=" word") for number in range(per_message)]
    reply = serving_pb2.GenerateReply(tokens=tokens).SerializeToString()
    for _ in range(request.sampling.max_tokens // per_message):
        yield reply
    yield serving_pb2.GenerateReply(final=serving_pb2.Final(finish_reason="length")).SerializeToString()


def _table(addresses: list[str], num_adapters: int) -> Table:
    registrations, shares = {}, {}
    hosts = [HostName(f"host-{number}") for number in range(len(addresses))]
    for number in range(num_adapters):
        version, rank = Version(f"{number:064x}"), _RANKS[number % len(_RANKS)]
        adapter = Adapter(version=version, rank=rank, num_bytes=rank * 2**19, path="store")
        registrations[f"adapter-{number}"] = Registration(name=f"adapter-{number}", adapter=adapter)
        shares[version] = (Share(hosts[number % len(hosts)], 1.0),)
    views = {
        name: HostView(
            spec=_spec(name, address),
            state=HostState.SERVING,
            copies={version: Level.DEVICE for version, (share,) in shares.items() if share.host == name},
        )
        for name, address in zip(hosts, addresses, strict=True)
    }
    return Table(number=1, round=1, hosts=views, registrations=registrations, shares=shares)


def _spec(name: HostName, address: str) -> HostSpec:
    return HostSpec(
        name=name,
        address=address,
        incarnation=1,
        host_bytes=2**40,
        num_adapter_pages=512,
        max_sequences=_MAX_SEQUENCES,
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
