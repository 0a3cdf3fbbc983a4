"""Adapter bytes from one host to another, over gRPC. Owns: the Peer service and its client, chunk by chunk.

Does not: decide who asks whom (adapter_pool.py), keep adapters, or send by collectives.
"""

import asyncio
import time
from collections.abc import Callable

import grpc
import numpy as np

from cluster import control_pb2
from cluster.seams import Export
from cluster.tickets import HANDSHAKE_S, TRANSFER_S, Prepare, Reply, Request
from cluster.view import Adapter, HostName
from lorajax.adapter_pages import CHECKSUM_BYTES, Checksum, HostAdapter, content, from_bytes
from lorajax.errors import CorruptAdapter, LorajaxError, Unavailable
from lorajax.spec import Version

CHUNK_BYTES = 2**20
MAX_PULLS = 4
"""Adapters sent at once. Who comes later waits."""
SEND_S = 120.0
"""How long one stream may last; whoever reads slower asks again for the rest."""
PREPARE_S = HANDSHAKE_S + TRANSFER_S
"""How long a sender may have to wait for its turn."""
STALL_S = 5.0
"""How long a peer may send nothing, not even that it is there: a connection that is kept may lead to one that hangs."""
MAX_KEPT = 64
"""Connections to senders of collectives."""
_PAUSES = 6.0
"""How much longer than a chunk's work on the event loop a pull that nobody waits for pauses after it: a step that runs
meanwhile loses little of its cores. Larger disturbs less, and brings adapters later."""
MIN_BYTES_PER_S = 4e6
"""A peer that is slower than this over a whole adapter is given up."""
_MAX_HEADER_BYTES = 2**16
_SIZE = "lorajax-total-bytes"
"""Initial metadata of a pull: what the whole buffer comes to."""
_PULL, _PREPARE = "/lorajax.control.v1.Peer/Pull", "/lorajax.control.v1.Peer/Prepare"
_OPTIONS = (("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 2 * CHUNK_BYTES))


class Peer:
    """Answers `lorajax.control.v1.Peer`. Runs on the event loop, and never longer than a chunk takes to copy and hash.

    Invariant: at most MAX_PULLS adapters are being sent; their pages are sent from where they lie.
    """

    def __init__(self, export: Export, prepared: Prepare) -> None:
        """Send what `export` gives, and by collectives what `prepared` says."""
        self._export = export
        self._prepared = prepared
        self._sending = asyncio.Semaphore(MAX_PULLS)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, for a server."""
        # Its replies are bytes: protobuf would copy them twice.
        pull = grpc.unary_stream_rpc_method_handler(self.Pull, request_deserializer=control_pb2.PullRequest.FromString)
        prepare = grpc.unary_unary_rpc_method_handler(
            self.Prepare,
            request_deserializer=control_pb2.PrepareRequest.FromString,
            response_serializer=control_pb2.PrepareReply.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("lorajax.control.v1.Peer", {"Pull": pull, "Prepare": prepare})

    async def Prepare(
        self, message: control_pb2.PrepareRequest, context: grpc.aio.ServicerContext
    ) -> control_pb2.PrepareReply | None:
        """Say at once that it is heard, and answer once this host is about to send; UNAVAILABLE where it will not."""
        await context.send_initial_metadata(())
        request = Request(
            ticket=message.ticket,
            target=HostName(message.target),
            incarnation=message.incarnation,
            met=message.met,
            is_refused=message.is_refused,
            is_busy=message.is_busy,
        )
        try:
            reply = await self._prepared(request)
        except LorajaxError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            return None
        return control_pb2.PrepareReply(
            total_bytes=reply.num_bytes, incarnation=reply.incarnation, is_gentle=reply.is_gentle
        )

    async def Pull(self, message: control_pb2.PullRequest, context: grpc.aio.ServicerContext) -> None:
        """Stream an adapter's buffer from an offset on; NOT_FOUND where it cannot be had here."""
        try:
            async with self._sending, asyncio.timeout(SEND_S):
                await self._send(await self._export(Version(message.version)), message.offset, context)
        except LorajaxError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"not read within {SEND_S:g} s; ask for the rest")

    async def _send(self, adapter: HostAdapter, offset: int, context: grpc.aio.ServicerContext) -> None:
        parts, checksum = content(adapter), Checksum()
        total = sum(len(part) for part in parts) + CHECKSUM_BYTES
        if offset >= total:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, f"offset {offset} of {total} bytes")
        await context.send_initial_metadata(((_SIZE, str(total)),))
        for part in parts:
            if offset:
                await asyncio.to_thread(checksum.update, part[:offset])
            for start in range(offset, len(part), CHUNK_BYTES):
                # Named, so that it lives until the next one does: else glibc gives its memory back each time.
                piece = bytes(part[start : start + CHUNK_BYTES])
                checksum.update(piece)
                await context.write(piece)
            offset = max(0, offset - len(part))
        await context.write(checksum.digest()[offset:])


class Prepares:
    """Asks senders whether they send now, over connections that are kept while they work. Owner: the event loop.

    Invariant: at most MAX_KEPT are, those used last; each is used by one call at a time.
    """

    def __init__(self) -> None:
        """Start without any."""
        self._kept: dict[str, grpc.aio.Channel] = {}

    async def ask(self, address: str, request: Request) -> Reply:
        """Put it to the host at an address. Raises Unavailable: soon, where that host does not say that it is there."""
        channel = self._kept.pop(address, None) or grpc.aio.insecure_channel(address, options=_OPTIONS)
        try:
            reply = await _asked(channel, request)
        except BaseException:
            await channel.close()
            raise
        replaced, self._kept[address] = self._kept.pop(address, None), channel
        if replaced is not None:
            await replaced.close()
        if len(self._kept) > MAX_KEPT:
            await self._kept.pop(next(iter(self._kept))).close()
        return reply

    async def close(self) -> None:
        """Keep none any more."""
        kept, self._kept = self._kept, {}
        await asyncio.gather(*(channel.close() for channel in kept.values()))


async def _asked(channel: grpc.aio.Channel, request: Request) -> Reply:
    message = control_pb2.PrepareRequest(
        ticket=request.ticket,
        target=request.target,
        incarnation=request.incarnation,
        met=request.met,
        is_refused=request.is_refused,
        is_busy=request.is_busy,
    )
    # Asked as for a stream, of which one message comes: a unary call of grpc.aio tells of metadata with its reply only.
    ask = channel.unary_stream(
        _PREPARE, control_pb2.PrepareRequest.SerializeToString, control_pb2.PrepareReply.FromString
    )
    call = ask(message, timeout=PREPARE_S)
    try:
        async with asyncio.timeout(STALL_S):
            await call.initial_metadata()
        [reply] = [reply async for reply in call]
    except grpc.aio.AioRpcError as error:
        raise Unavailable(f"{error.code().name}: {error.details()}") from None
    except TimeoutError:
        raise Unavailable(f"it sent nothing for {STALL_S:g} s") from None
    return Reply(num_bytes=reply.total_bytes, incarnation=reply.incarnation, is_gentle=reply.is_gentle)


def _always() -> bool:
    return True


async def pull(
    address: str, adapter: Adapter, is_urgent: Callable[[], bool] = _always, stall_s: float = STALL_S
) -> HostAdapter:
    """The adapter, from the host at an address; a stream that is cut goes on where it was, while it gets on at all.

    It comes as fast as it can while `is_urgent`, else in pieces that leave the processor to running steps.
    Host memory: the adapter's size. Raises: Unavailable, also where nothing comes for `stall_s`; CorruptAdapter if what
    came is not this adapter.
    """
    received = _Received(adapter)
    limit_s = stall_s + adapter.num_bytes / MIN_BYTES_PER_S
    try:
        async with asyncio.timeout(limit_s), grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            ask = channel.unary_stream(_PULL, control_pb2.PullRequest.SerializeToString)
            while not received.is_complete:
                await _go_on(ask, received, is_urgent, stall_s)
    except TimeoutError:
        raise Unavailable(f"it was too slow: {received.num_bytes} bytes within {limit_s:g} s") from None
    return from_bytes(received.buffer, adapter.version, checksum=received.checksum())


class _Received:
    """A buffer that fills up, and is hashed as it does: what has just come still lies in the processor's cache.

    Invariant: its first `num_bytes` have come, and it is never larger than the adapter can be.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.version = adapter.version
        self.buffer = memoryview(b"")
        self.num_bytes = 0
        self._max_bytes = adapter.num_bytes + _MAX_HEADER_BYTES
        self._checksum = Checksum()

    @property
    def is_complete(self) -> bool:
        return 0 < len(self.buffer) == self.num_bytes

    def expect(self, total: int) -> None:
        """Know how long the buffer will be."""
        if self.buffer:
            return
        if not CHECKSUM_BYTES < total <= self._max_bytes:
            raise CorruptAdapter(f"it would send {total} bytes; at most {self._max_bytes} can be right")
        self.buffer = memoryview(np.empty(total, np.uint8))  # a bytearray would be filled at once

    def take(self, data: bytes) -> None:
        start, end = self.num_bytes, self.num_bytes + len(data)
        if end > len(self.buffer):
            raise CorruptAdapter(f"it sent more than the {len(self.buffer)} bytes that it spoke of")
        self.buffer[start:end] = data
        self._checksum.update(self.buffer[start : min(end, len(self.buffer) - CHECKSUM_BYTES)])
        self.num_bytes = end

    def checksum(self) -> bytes:
        """Of all but the buffer's own, at its end."""
        return self._checksum.digest()


async def _go_on(
    ask: Callable[..., grpc.aio.UnaryStreamCall], received: _Received, is_urgent: Callable[[], bool], stall_s: float
) -> None:
    """Take the rest as far as it comes; raises Unavailable if nothing does."""
    before, why = received.num_bytes, "it ended early"
    call = ask(control_pb2.PullRequest(version=received.version, offset=before))
    try:
        async with asyncio.timeout(stall_s):
            said = dict(await call.initial_metadata())
        while True:
            async with asyncio.timeout(stall_s):
                data = await call.read()
            if data is grpc.aio.EOF:
                break
            received.expect(int(said.get(_SIZE, 0)))
            began_s = time.thread_time()  # what others of this thread or the interpreter's lock take is not its work
            received.take(data)
            if not is_urgent():
                await asyncio.sleep(_PAUSES * (time.thread_time() - began_s))
    except grpc.aio.AioRpcError as error:
        why = f"{error.code().name}: {error.details()}"
    except TimeoutError:
        why = f"it sent nothing for {stall_s:g} s"
    finally:
        call.cancel()
    if received.num_bytes == before:
        raise Unavailable(why)
