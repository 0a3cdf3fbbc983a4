"""Records to and from protobuf, and errors to gRPC statuses; the only file that knows both sides.

Owns: what a request may say, and which error is which status. Does not: look anything up, log, open sockets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cluster import serving_pb2
from cluster.calls import Call, Chat, Completion, Prompt, Shown, check_name, sampling_of
from lorajax import errors
from lorajax.config import EngineStats
from lorajax.spec import AdapterSpec, Level, Sampling

MAX_ADAPTERS = 64
"""Adapters of one request's weighted set."""
_REQUEST_ID = re.compile(r"[!-~]{0,128}")
_MAX_MESSAGE = 512
# What is not here is our own bug: INTERNAL, and its text stays in the log.
_CODE_OF: Mapping[type[Exception], grpc.StatusCode] = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedModel: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MalformedAdapter: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedAdapter: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CorruptAdapter: grpc.StatusCode.DATA_LOSS,
    errors.UnknownAdapter: grpc.StatusCode.NOT_FOUND,
    errors.AdapterExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.AdapterInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DuplicateRequest: grpc.StatusCode.ALREADY_EXISTS,
    errors.NeedsCluster: grpc.StatusCode.UNIMPLEMENTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """One registered adapter and where it is."""

    name: str
    spec: AdapterSpec
    is_pinned: bool
    levels: tuple[tuple[str, Level], ...]
    """(host, level) of each copy."""
    num_requests: int
    """Requests that use it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """One host's answer to `Status`."""

    name: str
    model: str
    version: str
    state: str
    adapters: tuple[AdapterReport, ...]
    stats: EngineStats
    tokens_per_s: float
    uptime_s: float


def call_from_proto(message: serving_pb2.GenerateRequest) -> Call:
    """The checked call. Raises BadRequest, naming the field, for whatever no server could serve."""
    if not _REQUEST_ID.fullmatch(message.request_id):
        raise errors.BadRequest(
            "request_id must be at most 128 visible ASCII characters; leave it empty to have one made", "request_id"
        )
    return Call(
        request_id=message.request_id,
        prompt=_prompt(message),
        adapters=_adapters(message.adapters),
        sampling=_sampling(message.sampling),
        priority=message.priority,
        fills_context=message.fills_context,
    )


def _prompt(message: serving_pb2.GenerateRequest) -> Prompt:
    match message.WhichOneof("prompt"):
        case "text" if message.text:
            return str(message.text)
        case "token_ids" if message.token_ids.ids:
            return tuple(message.token_ids.ids)
        case "chat" if message.chat.messages:
            chat = message.chat
            return Chat(
                messages=tuple((turn.role, turn.content) for turn in chat.messages),
                enable_thinking=chat.enable_thinking if chat.HasField("enable_thinking") else None,
            )
        case None:
            raise errors.BadRequest("the request has no prompt; set text, token_ids or chat", "prompt")
        case field:
            raise errors.BadRequest(f"the prompt is empty; put something into {field}", field)


def _adapters(uses: Sequence[serving_pb2.AdapterUse]) -> tuple[tuple[str, float], ...]:
    if len(uses) > MAX_ADAPTERS:
        raise errors.BadRequest(f"the request names {len(uses)} adapters; at most {MAX_ADAPTERS}", "adapters")
    for index, use in enumerate(uses):
        if use.name:
            check_name(use.name, f"adapters[{index}].name")
    return tuple((use.name, use.weight if use.HasField("weight") else 1.0) for use in uses if use.name)


def _sampling(message: serving_pb2.Sampling) -> Sampling:
    """The record has the proto's field names; what is absent keeps the record's default."""
    values: dict[str, Any] = {}  # as the protobuf holds them
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            value = getattr(message, field.name)  # a protobuf message, by its own descriptor
            values[field.name] = tuple(value) if field.is_repeated else value
    return sampling_of(values)


def reply_to_proto(part: Shown | Completion) -> serving_pb2.GenerateReply:
    """One message of the stream: tokens with their text, or at the end how it ended."""
    if isinstance(part, Completion):
        return serving_pb2.GenerateReply(final=_final(part))
    return serving_pb2.GenerateReply(
        tokens=[
            serving_pb2.Token(
                id=token.id,
                text=text,
                logprob=token.logprob,
                top=[serving_pb2.TopToken(id=other, logprob=logprob) for other, logprob in token.top],
            )
            for token, text in part
        ]
    )


def _final(completion: Completion) -> serving_pb2.Final:
    timing = completion.timing
    return serving_pb2.Final(
        finish_reason=completion.reason.value,
        usage=serving_pb2.Usage(
            prompt_tokens=completion.num_prompt_tokens, completion_tokens=completion.num_completion_tokens
        ),
        timing=serving_pb2.Timing(
            queue_s=timing.queue_s,
            adapter_wait_s=timing.adapter_wait_s,
            prefill_s=timing.prefill_s,
            first_token_s=timing.first_token_s,
            total_s=timing.total_s,
        ),
        adapter_versions=completion.versions,
        host=completion.host,
        request_id=completion.request_id,
    )


def adapter_to_proto(report: AdapterReport) -> serving_pb2.AdapterInfo:
    """One adapter as `Load`, `Pin` and `List` answer it."""
    return serving_pb2.AdapterInfo(
        name=report.name,
        version=report.spec.version,
        rank=report.spec.rank,
        bytes=report.spec.num_bytes,
        pinned=report.is_pinned,
        residency=[serving_pb2.Residency(host=host, level=level.value) for host, level in report.levels],
    )


def host_to_proto(report: HostReport) -> serving_pb2.HostStatus:
    """One host as `Status` answers it."""
    stats = report.stats
    return serving_pb2.HostStatus(
        name=report.name,
        model=report.model,
        version=report.version,
        state=report.state,
        adapters=[
            serving_pb2.HostAdapter(
                name=adapter.name,
                version=adapter.spec.version,
                rank=adapter.spec.rank,
                pinned=adapter.is_pinned,
                level=dict(adapter.levels).get(report.name, Level.STORE).value,
                num_requests=adapter.num_requests,
            )
            for adapter in report.adapters
        ],
        kv_pages=_page_use(stats.kv_pages_free, stats.kv_pages_total),
        adapter_pages=_page_use(stats.adapter_pages_free, stats.adapter_pages_total),
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        tokens_per_s=report.tokens_per_s,
        uptime_s=report.uptime_s,
    )


def _page_use(free: int, total: int) -> serving_pb2.PageUse:
    return serving_pb2.PageUse(used=total - free, total=total)


class Relayed(errors.LorajaxError):
    """What another process answered instead of a result, to be passed on: its code, words and trailing metadata."""

    def __init__(self, code: grpc.StatusCode, message: str, trailing: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        """Keep the code and the metadata beside the message."""
        Exception.__init__(self, message)
        self.code = code
        self.trailing = trailing

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError, names: Mapping[str, str]) -> "Relayed":
        """The status of a call that failed, in the caller's words: `names` says what to write for what."""
        message = error.details() or error.code().name
        for theirs, ours in names.items():
            message = message.replace(theirs, ours)
        return cls(error.code(), message, tuple(error.trailing_metadata() or ()))

    @property
    def verdict(self) -> "Verdict":
        """The same, for a caller of another protocol."""
        details = dict(self.trailing).get("grpc-status-details-bin", b"")
        bad, retry, retry_s = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo(), None
        for detail in status_pb2.Status.FromString(details).details:
            detail.Unpack(bad)
            if detail.Unpack(retry):
                retry_s = retry.retry_delay.ToMilliseconds() / 1000
        field = bad.field_violations[0].field if bad.field_violations else ""
        return Verdict(code=self.code, message=str(self), field=field, retry_s=retry_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a caller is told of an error, whatever the protocol."""

    code: grpc.StatusCode
    message: str
    """One line."""
    field: str = ""
    """Path of the request's field at fault, where one is."""
    retry_s: float | None = None


def verdict_of(error: Exception, incident_id: str) -> Verdict:
    """The one table of errors; a bug shows the incident's id and nothing of its text."""
    code = next((code for kind, code in _CODE_OF.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    message = " ".join(str(error).split())[:_MAX_MESSAGE]
    match error:
        case errors.BadRequest(field=field):
            return Verdict(code=code, message=message, field=field)
        case errors.MalformedAdapter():
            return Verdict(code=code, message=message, field="path")
        case errors.Overloaded(retry_s=retry_s) | errors.Unavailable(retry_s=retry_s):
            return Verdict(code=code, message=message, retry_s=retry_s)
    if code is grpc.StatusCode.INTERNAL:
        message = f"internal error; the server's log has it as incident {incident_id}"
    return Verdict(code=code, message=message)


def status_of(verdict: Verdict) -> grpc.Status:
    """The gRPC status of a verdict, with google.rpc details."""
    status = status_pb2.Status(code=verdict.code.value[0], message=verdict.message)
    metadata: tuple[tuple[str, str], ...] = ()
    if verdict.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=verdict.field, description=verdict.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if verdict.retry_s is not None:
        wait_ms = int(verdict.retry_s * 1000)
        wait = duration_pb2.Duration()
        wait.FromMilliseconds(wait_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=wait))
        metadata = (("grpc-retry-pushback-ms", str(wait_ms)),)
    packed = rpc_status.to_status(status)
    return packed._replace(trailing_metadata=(*packed.trailing_metadata, *metadata))
