"""A server that says what it is told to: for tests of the caller's side. Owns: its socket, what it was sent."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cluster import serving_pb2, serving_pb2_grpc


def tokens(*texts: str) -> serving_pb2.GenerateReply:
    return serving_pb2.GenerateReply(tokens=[serving_pb2.Token(id=i, text=text) for i, text in enumerate(texts)])


FINAL = serving_pb2.GenerateReply(
    final=serving_pb2.Final(
        finish_reason="stop",
        usage=serving_pb2.Usage(prompt_tokens=5, completion_tokens=3),
        timing=serving_pb2.Timing(queue_s=0.01, adapter_wait_s=0.02, prefill_s=0.1, first_token_s=0.13, total_s=0.33),
        adapter_versions=["ab" * 32],
        host="here",
        request_id="r1",
    )
)
PIRATE = serving_pb2.AdapterInfo(
    name="pirate",
    version="ab" * 32,
    rank=12,
    bytes=3 * 2**20,
    pinned=True,
    residency=[serving_pb2.Residency(host="here", level="device")],
)
HOST = serving_pb2.HostStatus(
    name="here",
    model="tiny",
    state="serving",
    adapters=[serving_pb2.HostAdapter(name="pirate", version="ab" * 32, rank=12, level="device", num_requests=2)],
    kv_pages=serving_pb2.PageUse(used=3, total=9),
    adapter_pages=serving_pb2.PageUse(used=2, total=8),
    num_running=2,
)

type Turn = Callable[[grpc.ServicerContext], Iterator[serving_pb2.GenerateReply]]
"""One attempt at `Generate`."""


def answer(*replies: serving_pb2.GenerateReply) -> Turn:
    return lambda context: iter(replies)


def fail(
    code: grpc.StatusCode,
    message: str,
    *,
    after: tuple[serving_pb2.GenerateReply, ...] = (),
    pushback_ms: int | None = None,
) -> Turn:
    def turn(context: grpc.ServicerContext) -> Iterator[serving_pb2.GenerateReply]:
        yield from after
        if pushback_ms is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(pushback_ms)),))
        context.abort(code, message)

    return turn


@dataclass
class Server(serving_pb2_grpc.InferenceServicer, serving_pb2_grpc.AdaptersServicer, serving_pb2_grpc.ClusterServicer):
    """Takes one turn of `turns` per attempt, the last one again and again, and keeps every request it was sent."""

    turns: tuple[Turn, ...]
    target: str = ""
    requests: list = field(default_factory=list)

    def Generate(self, request, context):
        self.requests.append(request)
        yield from self.turns[min(len(self.requests), len(self.turns)) - 1](context)

    def Load(self, request, context):
        self.requests.append(request)
        return PIRATE

    def Unload(self, request, context):
        self.requests.append(request)
        if request.name != "pirate":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no adapter {request.name!r}; did you mean 'pirate'?")
        return serving_pb2.UnloadAdapterReply(name=request.name, num_running=2)

    def List(self, request, context):
        return serving_pb2.ListAdaptersReply(adapters=[PIRATE])

    def Pin(self, request, context):
        self.requests.append(request)
        return serving_pb2.AdapterInfo(name=request.name, pinned=request.pin)

    def Status(self, request, context):
        return serving_pb2.StatusReply(hosts=[HOST])

    def WatchPlacement(self, request, context):
        share = serving_pb2.Share(adapter="pirate", version="ab" * 32, host="here", share=1.0)
        yield serving_pb2.PlacementReply(round=3, shares=[share])

    def Drain(self, request, context):
        self.requests.append(request)
        return serving_pb2.DrainReply(host=request.host or "here", num_running=1)


@contextlib.contextmanager
def serving(*turns: Turn, is_ready: bool = True) -> Iterator[Server]:
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    scripted = Server(turns=turns)
    serving_pb2_grpc.add_InferenceServicer_to_server(scripted, server)
    serving_pb2_grpc.add_AdaptersServicer_to_server(scripted, server)
    serving_pb2_grpc.add_ClusterServicer_to_server(scripted, server)
    status = health_pb2.HealthCheckResponse
    servicer = health.HealthServicer()
    servicer.set("", status.SERVING if is_ready else status.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    scripted.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield scripted
    finally:
        server.stop(grace=None).wait()
