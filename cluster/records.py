"""What callers say and hear, as frozen records. Owns: the records of `cluster/client.py` and their protobuf twins.
Does not: check what is valid (the server does, in cluster/wire.py), open sockets.
"""

from dataclasses import dataclass, fields

from cluster import serving_pb2
from lorajax.spec import Level, Sampling, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation; the model's chat template decides which roles exist."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterUse:
    """One adapter of a request's weighted set."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one `generate` asks: raw text, token ids or a conversation, for a weighted set of adapters."""

    prompt: str | tuple[int, ...] | tuple[Message, ...]
    sampling: Sampling
    adapters: tuple[AdapterUse, ...] = ()
    """Empty is the base model."""
    priority: int = 0
    request_id: str = ""
    """Empty lets the server choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One generated token; `text` may be empty while a character is incomplete."""

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a completion ended; nothing follows."""

    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    timing: Timing
    adapter_versions: tuple[str, ...]
    """Content hashes of the adapters that answered."""
    host: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """One registered adapter and where its pages are."""

    name: str
    version: str
    rank: int
    num_bytes: int
    is_pinned: bool
    level_of: tuple[tuple[str, Level], ...]
    """(host, level) for each host that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which part of each adapter's traffic goes where, since a round."""

    round: int
    shares: tuple[tuple[str, str, float], ...]
    """(adapter, host, 0 … 1), none of them 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAdapter:
    """One adapter as one host sees it."""

    name: str
    version: str
    rank: int
    is_pinned: bool
    level: Level
    num_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """What one host is doing."""

    name: str
    model: str
    state: str
    """ "starting", "serving" or "draining"."""
    version: str
    adapters: tuple[HostAdapter, ...]
    kv_pages: tuple[int, int]
    """(used, total)."""
    adapter_pages: tuple[int, int]
    """(used, total)."""
    num_running: int
    num_waiting: int
    tokens_per_s: float
    uptime_s: float


def question_to_proto(question: Question) -> serving_pb2.GenerateRequest:
    """The request message; fields that hold our default are left to the server's, which is the same."""
    request = serving_pb2.GenerateRequest(
        request_id=question.request_id,
        adapters=[serving_pb2.AdapterUse(name=use.name, weight=use.weight) for use in question.adapters],
        sampling=_sampling_to_proto(question.sampling),
        priority=question.priority,
    )
    if isinstance(question.prompt, str):
        request.text = question.prompt
        return request
    for part in question.prompt:
        if isinstance(part, Message):
            request.chat.messages.add(role=part.role, content=part.content)
        else:
            request.token_ids.ids.append(part)
    return request


def _sampling_to_proto(sampling: Sampling) -> serving_pb2.Sampling:
    # The record and the message have the same field names; None is absent.
    return serving_pb2.Sampling(**{field.name: getattr(sampling, field.name) for field in fields(sampling)})


def piece_from_proto(token: serving_pb2.Token) -> Piece:
    """One token of a reply."""
    return Piece(
        id=token.id,
        text=token.text,
        logprob=token.logprob if token.HasField("logprob") else None,
        top=tuple((top.id, top.logprob) for top in token.top),
    )


def summary_from_proto(final: serving_pb2.Final) -> Summary:
    """The end of a stream."""
    timing = final.timing
    return Summary(
        finish_reason=final.finish_reason,
        num_prompt_tokens=final.usage.prompt_tokens,
        num_completion_tokens=final.usage.completion_tokens,
        timing=Timing(
            queue_s=timing.queue_s,
            adapter_wait_s=timing.adapter_wait_s,
            prefill_s=timing.prefill_s,
            first_token_s=timing.first_token_s,
            total_s=timing.total_s,
        ),
        adapter_versions=tuple(final.adapter_versions),
        host=final.host,
        request_id=final.request_id,
    )


def adapter_from_proto(info: serving_pb2.AdapterInfo) -> AdapterInfo:
    """One registered adapter."""
    return AdapterInfo(
        name=info.name,
        version=info.version,
        rank=info.rank,
        num_bytes=info.bytes,
        is_pinned=info.pinned,
        level_of=tuple((at.host, Level(at.level)) for at in info.residency),
    )


def placement_from_proto(reply: serving_pb2.PlacementReply) -> Placement:
    """One message of a watched placement."""
    return Placement(
        round=reply.round, shares=tuple((share.adapter, share.host, share.share) for share in reply.shares)
    )


def host_from_proto(host: serving_pb2.HostStatus) -> HostInfo:
    """One host of a status reply."""
    return HostInfo(
        name=host.name,
        model=host.model,
        state=host.state,
        version=host.version,
        adapters=tuple(_host_adapter(adapter) for adapter in host.adapters),
        kv_pages=(host.kv_pages.used, host.kv_pages.total),
        adapter_pages=(host.adapter_pages.used, host.adapter_pages.total),
        num_running=host.num_running,
        num_waiting=host.num_waiting,
        tokens_per_s=host.tokens_per_s,
        uptime_s=host.uptime_s,
    )


def _host_adapter(adapter: serving_pb2.HostAdapter) -> HostAdapter:
    return HostAdapter(
        name=adapter.name,
        version=adapter.version,
        rank=adapter.rank,
        is_pinned=adapter.pinned,
        level=Level(adapter.level),
        num_requests=adapter.num_requests,
    )
