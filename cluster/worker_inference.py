"""The Inference service of one host. Owns: a request's way from text to the engine and back, whatever the protocol.

Does not: schedule it, or know JSON (cluster/http_host.py asks `answer` too).
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import replace

import grpc

from cluster import serving_pb2, wire
from cluster.admission import Admission, Flight
from cluster.calls import Call, Chat, Completion, Prompt, Shown, request_of
from cluster.control_wire import FETCH_KEY
from cluster.seams import Member, Parts, WorkerConfig
from cluster.transcript import Transcript
from lorajax.errors import BadRequest
from lorajax.spec import Finished, Request, Sampling, Timing, Version

MAX_BYTES_PER_TOKEN = 16
"""A prompt with more bytes than this for every token of the context is refused before it is tokenised."""
_SHORT_BYTES = 2048  # tokenised in well under a millisecond: not worth a thread


class Inference:
    """Answers `lorajax.v1.Inference`. One per host; runs on the event loop."""

    def __init__(
        self,
        config: WorkerConfig,
        parts: Parts,
        admission: Admission,
        forget: Callable[[Iterable[Version]], None],
        member: Member,
    ) -> None:
        """Serve with these parts, as far as `admission` lets requests in.

        `forget` hears of versions that lost their last name and user; `member` brings adapters that are elsewhere.
        """
        self._config = config
        self._parts = parts
        self._admission = admission
        self._forget = forget
        self._member = member

    async def Generate(self, message: serving_pb2.GenerateRequest, context: grpc.aio.ServicerContext) -> None:
        """Stream one completion; a caller who leaves, or whose deadline passes, cancels it."""
        self._admission.require_serving()
        call = wire.call_from_proto(message)
        remaining_s = context.time_remaining()
        deadline_s = None if remaining_s is None else time.monotonic() + remaining_s
        hints = tuple(value for key, value in context.invocation_metadata() or () if key == FETCH_KEY)
        async with contextlib.aclosing(self.answer(call, deadline_s, hints)) as parts:
            async for part in parts:
                await context.write(wire.reply_to_proto(part))

    async def answer(
        self, call: Call, deadline_s: float | None = None, hints: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[Shown | Completion]:
        """Tokens as they come, then one Completion; closing it early cancels the request.

        A reader that does not keep up holds only its own task: its events wait in the flight. `hints` say where in a
        cluster its adapters are.
        Raises: BadRequest, UnknownAdapter, Overloaded, Unavailable, or whatever ends the request.
        """
        arrived_s = time.monotonic()
        self._check_sizes(call)
        request_id = call.request_id or uuid.uuid4().hex
        names = tuple(name for name, _ in call.adapters)
        most = self._config.model.max_model_len if call.fills_context else call.sampling.max_tokens
        with self._admission.open(request_id, names, most + 2) as flight, contextlib.ExitStack() as using:
            flight.fetch_s = await self._member.bring(names, hints)
            versions = using.enter_context(self._in_use(names))
            prompt = await self._encode(call.prompt)
            # Our own tokenizer, too, may know added tokens that the model has no rows for.
            _check_id(max(prompt, default=0), self._config.model.vocab_size, _field_of(call.prompt))
            self._check_room(len(prompt), call.sampling.max_tokens)
            call = replace(call, sampling=self._sampling(call, len(prompt)))
            request = request_of(call, request_id, prompt, versions, deadline_s)
            async with contextlib.aclosing(self._run(request, flight, arrived_s)) as parts:
                async for part in parts:
                    yield part

    def _check_sizes(self, call: Call) -> None:
        """Refuse what cannot fit, before any work is done on it."""
        model = self._config.model
        for token_id in call.sampling.stop_token_ids:
            _check_id(token_id, model.vocab_size, "sampling.stop_token_ids")
        self._check_room(1, call.sampling.max_tokens)
        match call.prompt:
            case tuple(ids):
                self._check_room(len(ids), call.sampling.max_tokens)
            case str(text):
                self._check_bytes(_num_bytes(text), _field_of(text))
            case Chat(messages=messages) as chat:
                self._check_bytes(
                    sum(_num_bytes(part) + 1 for message in messages for part in message), _field_of(chat)
                )

    def _check_bytes(self, num_bytes: int, field: str) -> None:
        most = MAX_BYTES_PER_TOKEN * self._config.model.max_model_len
        if num_bytes > most:
            raise BadRequest(
                f"the prompt has {num_bytes} bytes; at most {most} are read for this model's context of "
                f"{self._config.model.max_model_len} tokens; shorten it",
                field,
            )

    def _check_room(self, num_prompt_tokens: int, max_tokens: int) -> None:
        most = self._config.model.max_model_len
        if num_prompt_tokens + max_tokens > most:
            raise BadRequest(
                f"{num_prompt_tokens} prompt tokens + max_tokens {max_tokens} exceed the context of {most} tokens; "
                "shorten the prompt or lower max_tokens",
                "prompt" if num_prompt_tokens >= most else "sampling.max_tokens",
            )

    def _sampling(self, call: Call, num_prompt_tokens: int) -> Sampling:
        """The call's own, or with as many tokens as context and KV pages have room for after the prompt."""
        if not call.fills_context:
            return call.sampling
        # The last token needs no KV: it is never fed.
        num_kv_tokens = self._parts.engine.stats().kv_pages_total * self._config.kv_page_tokens + 1
        most = min(self._config.model.max_model_len, num_kv_tokens) - num_prompt_tokens
        return replace(call.sampling, max_tokens=max(1, most))

    @contextlib.contextmanager
    def _in_use(self, names: tuple[str, ...]) -> Iterator[tuple[Version, ...]]:
        """The names' present versions, kept while the block runs."""
        versions = self._parts.catalogue.acquire(names)
        try:
            yield versions
        finally:
            self._forget(self._parts.catalogue.release(versions))

    async def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids; long texts on another thread, so that running streams do not wait for them."""
        match prompt:
            case tuple(ids):
                return ids
            case str(text) if len(text) <= _SHORT_BYTES:
                return tuple(self._parts.tokenizer.encode(text))
            case str(text):
                return tuple(await asyncio.to_thread(self._parts.tokenizer.encode, text))
            case Chat() as chat:
                return tuple(await asyncio.to_thread(self._encode_chat, chat))

    def _encode_chat(self, chat: Chat) -> list[int]:
        text = self._parts.template.render(chat.messages, enable_thinking=chat.enable_thinking)
        return self._parts.tokenizer.encode_chat(text)

    async def _run(self, request: Request, flight: Flight, arrived_s: float) -> AsyncGenerator[Shown | Completion]:
        transcript = Transcript(self._parts.tokenizer.stream(request.sampling.stop))
        versions = tuple(version for version, _ in request.adapters)
        self._parts.engine.submit(request, flight.sink)
        flight.num_prompt_tokens = len(request.prompt)
        self._parts.metrics.accepted(len(request.prompt))
        self._member.used(versions, len(request.prompt))
        last_s = arrived_s
        try:
            while not transcript.has_ended:
                num_before, had_stopped = transcript.num_tokens, transcript.has_stopped
                shown = [token for event in await flight.take() for token in transcript.push(event)]
                now_s = time.monotonic()
                if count := transcript.num_tokens - num_before:
                    self._parts.metrics.generated(count, now_s - last_s, now_s, is_first=not flight.has_started)
                    self._member.used(versions, count)
                    last_s, flight.has_started = now_s, True
                if transcript.has_stopped and not had_stopped:
                    self._parts.engine.finish(request.id)
                if shown:
                    yield shown
        finally:
            if transcript.finished is None:
                self._parts.engine.cancel(request.id)
        if transcript.error is not None:
            raise transcript.error
        assert transcript.finished is not None
        yield self._completion(request, transcript.finished, flight.fetch_s)

    def _completion(self, request: Request, finished: Finished, fetch_s: float) -> Completion:
        return Completion(
            request_id=request.id,
            reason=finished.reason,
            num_prompt_tokens=finished.num_prompt_tokens,
            num_completion_tokens=finished.num_completion_tokens,
            timing=_later(finished.timing, fetch_s),
            versions=tuple(version for version, _ in request.adapters),
            host=self._config.host,
        )


def _later(timing: Timing, fetch_s: float) -> Timing:
    """The engine's times, of a request that waited for its adapters before the engine knew it."""
    return replace(
        timing,
        adapter_wait_s=timing.adapter_wait_s + fetch_s,
        first_token_s=timing.first_token_s + fetch_s,
        total_s=timing.total_s + fetch_s,
    )


def _num_bytes(text: str) -> int:
    return len(text.encode())


def _field_of(prompt: Prompt) -> str:
    match prompt:
        case tuple():
            return "token_ids.ids"
        case str():
            return "text"
        case Chat():
            return "chat.messages"


def _check_id(token_id: int, vocab_size: int, field: str) -> None:
    if token_id >= vocab_size:
        raise BadRequest(f"token id {token_id} is outside the model's vocabulary, 0 … {vocab_size - 1}", field)
