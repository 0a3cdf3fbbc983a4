"""Doubles of the seams: simple, deterministic, without a clock. Owns: what stands in for an engine and a tokenizer."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajax.adapter_pages import HostAdapter
from lorajax.config import EngineStats
from lorajax.errors import BadRequest, CorruptAdapter, MalformedAdapter, UnknownAdapter
from lorajax.spec import (
    AdapterSpec,
    Event,
    Failed,
    Finished,
    FinishReason,
    Level,
    ModelSpec,
    Request,
    RopeSpec,
    Timing,
    Token,
    TokenEvent,
    Version,
)
from lorajax.text import StreamDecoder

EOS = 256
TIMING = Timing(queue_s=1.0, adapter_wait_s=2.0, prefill_s=3.0, first_token_s=4.0, total_s=5.0)


def model_spec(max_model_len: int = 64) -> ModelSpec:
    """A model whose tokens are bytes, and one that ends."""
    return ModelSpec(
        family="llama",
        vocab_size=257,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope=RopeSpec(theta=10000.0),
        max_model_len=max_model_len,
        tied_embeddings=True,
        windows=(None,),
        stop_token_ids=(EOS,),
    )


def echo(request: Request, position: int) -> int:
    """A lower-case letter that depends on the prompt, the adapters with their weights, and the position alone."""
    key = json.dumps([request.prompt, request.adapters, position])
    return ord("a") + hashlib.sha256(key.encode()).digest()[0] % 26


def says(text: str | bytes) -> Callable[[Request, int], int]:
    """A model that always gives the same answer, and then EOS."""
    answer = text.encode() if isinstance(text, str) else text
    return lambda _, position: answer[position] if position < len(answer) else EOS


@dataclass(slots=True)
class _Running:
    request: Request
    sink: Callable[[Event], None]
    position: int = 0


class EchoEngine:
    """An engine whose token is a function of prompt, adapters and position.

    It answers within `submit`, or where `is_paced`, one token of every request for each `step`. `on_call` hears of each
    submit, cancel, add and remove, on the caller's thread; `refusal` is raised by the next `submit`.
    """

    def __init__(
        self,
        token: Callable[[Request, int], int] = echo,
        *,
        is_paced: bool = False,
        on_call: Callable[[tuple[str, str]], None] = lambda _: None,
    ) -> None:
        self._token = token
        self._is_paced = is_paced
        self._on_call = on_call
        self.refusal: Exception | None = None
        self.running: dict[str, _Running] = {}
        self.adapters: dict[Version, tuple[HostAdapter, bool]] = {}
        self.num_tokens = 0
        self.is_between_steps = threading.Event()
        """Adding an adapter waits while a test has cleared it."""
        self.is_between_steps.set()

    def submit(self, request: Request, sink: Callable[[Event], None]) -> None:
        self._on_call(("submit", request.id))
        if self.refusal is not None:
            raise self.refusal
        assert all(version in self.adapters for version, _ in request.adapters)
        self.running[request.id] = _Running(request, sink)
        while not self._is_paced and request.id in self.running:
            self.step()

    def cancel(self, request_id: str) -> None:
        self.running.pop(request_id, None)
        self._on_call(("cancel", request_id))

    def finish(self, request_id: str) -> None:
        if (run := self.running.get(request_id)) is not None:
            self._finish(run, FinishReason.STOP)
        self._on_call(("finish", request_id))

    def step(self) -> None:
        """One more token of every running request."""
        for run in tuple(self.running.values()):
            sampling, token_id = run.request.sampling, self._token(run.request, run.position)
            run.position += 1
            if token_id in (EOS, *sampling.stop_token_ids) and not sampling.ignore_eos:
                self._finish(run, FinishReason.STOP)
                continue
            self.num_tokens += 1
            top = tuple((other, -1.0) for other in range(sampling.logprobs or 0))
            logprob = None if sampling.logprobs is None else -0.5
            run.sink(TokenEvent(request_id=run.request.id, token=Token(id=token_id, logprob=logprob, top=top)))
            if run.position == sampling.max_tokens:
                self._finish(run, FinishReason.LENGTH)

    def fail(self, request_id: str, error: Exception) -> None:
        """End one running request badly."""
        self.running.pop(request_id).sink(Failed(request_id=request_id, error=error))

    def _finish(self, run: _Running, reason: FinishReason) -> None:
        del self.running[run.request.id]
        prompt, tokens = len(run.request.prompt), run.position
        run.sink(
            Finished(
                request_id=run.request.id,
                reason=reason,
                num_prompt_tokens=prompt,
                num_completion_tokens=tokens,
                timing=TIMING,
            )
        )

    def add_adapter(self, adapter: HostAdapter, source: Path | None, *, pinned: bool) -> None:
        self._on_call(("add", adapter.spec.version))
        self.is_between_steps.wait()
        self.adapters[adapter.spec.version] = (adapter, pinned)

    def pin(self, version: Version, *, pinned: bool) -> None:
        self.adapters[version] = (self.adapters[version][0], pinned)

    def remove_adapter(self, version: Version) -> None:
        if self.adapters.pop(version, None) is None:
            raise UnknownAdapter(f"no adapter with version {version}")
        self._on_call(("remove", version))

    def export(self, version: Version) -> HostAdapter | None:
        return self.adapters[version][0] if version in self.adapters else None

    def stats(self) -> EngineStats:
        residency = {version: Level.DEVICE if pinned else Level.HOST for version, (_, pinned) in self.adapters.items()}
        used = sum(adapter.spec.num_pages for adapter, _ in self.adapters.values())
        return EngineStats(
            num_running=len(self.running),
            num_waiting=0,
            kv_pages_free=90,
            kv_pages_total=100,
            adapter_pages_free=1000 - used,
            adapter_pages_total=1000,
            residency=residency,
            num_tokens=self.num_tokens,
        )


class ByteTokenizer:
    """One token per byte; `num_encoded` counts the bytes that it was asked to read."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode(self, text: str) -> list[int]:
        ids = list(text.encode())
        self.num_encoded += len(ids)
        return ids

    encode_chat = encode

    def token_text(self, id: int) -> str:
        return bytes([id]).decode("utf-8", "replace") if id < EOS else "<eos>"

    def stream(self, stop: Sequence[str]) -> StreamDecoder:
        return StreamDecoder(lambda id: bytes([id]) if id < EOS else b"", stop, strips_first_space=False)


class PlainTemplate:
    """Writes `role: content` lines; takes no role but these two."""

    def render(self, messages: Sequence[tuple[str, str]], *, enable_thinking: bool | None = None) -> str:
        for index, (role, _) in enumerate(messages):
            if role not in ("user", "assistant"):
                raise BadRequest(f"role {role!r}; use user or assistant", f"chat.messages[{index}].role")
        return "".join(f"{role}: {content}\n" for role, content in messages)


def write_adapter(folder: Path, content: str = "weights", rank: int = 8) -> Path:
    """A folder that `read_adapter` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.json").write_text(json.dumps({"rank": rank, "content": content}))
    return folder


def read_adapter(folder: Path, *, expect: Version | None = None) -> HostAdapter:
    """An adapter without arrays, whose version is its file's hash."""
    try:
        data = (folder / "adapter.json").read_bytes()
    except OSError as error:
        raise MalformedAdapter(f"{folder.name} has no adapter.json") from error
    version = Version(hashlib.sha256(data).hexdigest())
    if expect not in (None, version):
        raise CorruptAdapter(f"{folder.name} has changed")
    spec = AdapterSpec(version=version, rank=json.loads(data)["rank"], targets=("q_proj",), num_bytes=len(data))
    return HostAdapter(spec=spec, a={}, b={})
