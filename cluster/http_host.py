"""HTTP before one host. Owns: what its services are called there. Only `lorajax serve --http` imports it."""

import contextlib
from collections.abc import Iterator

from cluster.admission import Admission
from cluster.calls import Call
from cluster.http_front import Served, Write, http_front
from cluster.http_server import HttpServer
from cluster.seams import Parts, WorkerConfig
from cluster.worker_adapters import Adapters
from cluster.worker_inference import Inference


def host_front(
    address: str, config: WorkerConfig, parts: Parts, admission: Admission, inference: Inference, adapters: Adapters
) -> HttpServer:
    """A server on `address` before these services of one host."""
    served = Served(
        model_name=config.model_name,
        max_model_len=config.model.max_model_len,
        max_streams=config.max_streams,
        token_text=parts.tokenizer.token_text,
    )
    return http_front(address, served, _Host(parts, admission, inference, adapters), parts.metrics)


class _Host:
    """One host as HTTP asks it."""

    def __init__(self, parts: Parts, admission: Admission, inference: Inference, adapters: Adapters) -> None:
        self._catalogue = parts.catalogue
        self._admission = admission
        self._inference = inference
        self._adapters = adapters

    def require_serving(self) -> None:
        """Raise Unavailable unless requests are taken."""
        self._admission.require_serving()

    def require(self, name: str) -> None:
        """Raise UnknownAdapter unless the name stands for an adapter."""
        self._catalogue.entry(name)

    def adapters(self) -> Iterator[tuple[str, str]]:
        """(name, source) of every adapter, by name."""
        return ((entry.name, str(entry.source)) for entry in self._catalogue.entries())

    async def answer(self, call: Call, write: Write) -> None:
        """Ask the engine."""
        async with contextlib.aclosing(self._inference.answer(call)) as parts:
            async for part in parts:
                await write(part)

    async def load(self, name: str, path: str, *, replace: bool) -> None:
        """Register a folder below an adapter root."""
        await self._adapters.load_path(name, path, replace=replace)

    async def unload(self, name: str, *, force: bool) -> None:
        """Take a name away; requests that run on it finish."""
        await self._adapters.unload(name, force=force)
