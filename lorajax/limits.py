"""What one engine can ever serve. Owns: its sizes and the check of a request. Does not: count what is free."""

from dataclasses import dataclass

from lorajax.config import EngineConfig
from lorajax.errors import BadRequest
from lorajax.spec import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """The sizes of one engine that scheduling depends on."""

    config: EngineConfig
    num_kv_pages: int
    """Pages of the KV pool, page 0 counted."""
    num_adapter_pages: int
    """Pages of the adapter pool, page 0 counted."""
    max_model_len: int
    """Largest prompt + completion, in tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end a completion unless the request ignores them."""

    def num_kv_pages_of(self, num_tokens: int) -> int:
        """KV pages that so many tokens take."""
        return -(-num_tokens // self.config.kv_page_tokens)

    def check(self, request: Request) -> None:
        """Raise BadRequest if the request would not fit even alone."""
        num_prompt, max_tokens = len(request.prompt), request.sampling.max_tokens
        asked = f"{num_prompt} prompt tokens + max_tokens {max_tokens} = {num_prompt + max_tokens}"
        if num_prompt + max_tokens > self.max_model_len:
            raise BadRequest(f"{asked} exceeds the context of {self.max_model_len} tokens; shorten one", field="prompt")
        # The last token is never fed, so it needs no KV. Page 0 holds none.
        num_needed, num_total = self.num_kv_pages_of(num_prompt + max_tokens - 1), self.num_kv_pages - 1
        if num_needed > num_total:
            raise BadRequest(
                f"{asked} needs {num_needed} KV pages of {num_total}; shorten one or raise kv_bytes", field="prompt"
            )
