"""`lorajax serve` as a child process, measured from outside. Owns: its start time and its memory.

Does not: time requests (own_engine does, without the network).
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cluster.client import Client
from cluster.records import AdapterUse, Question
from lorajax.demo_server import serving
from lorajax.spec import Sampling

_NEW_TOKENS = 16


async def measure_server(
    model: Path, adapters: Mapping[str, Path], prompts: Sequence[tuple[int, ...]], log: Path
) -> tuple[float, int]:
    """(seconds from start to READY, resident bytes after it has answered every prompt, over all adapters)."""
    command = [sys.executable, "-m", "lorajax", "serve", "--model", str(model), "--grpc", "127.0.0.1:0"]
    for name, folder in adapters.items():
        command += ["--adapter", f"{name}={folder}"]
    start_s = time.perf_counter()
    async with serving(command, log, lambda _phase, _who: None) as child:
        ready_s = time.perf_counter() - start_s
        async with Client(child.target) as client:
            names = list(adapters)
            uses = [AdapterUse(name=names[i % len(names)]) for i in range(len(prompts))]
            await asyncio.gather(*(_ask(client, prompt, use) for prompt, use in zip(prompts, uses, strict=True)))
        return ready_s, psutil.Process(child.process.pid).memory_info().rss


async def _ask(client: Client, prompt: tuple[int, ...], use: AdapterUse) -> None:
    sampling = Sampling(max_tokens=_NEW_TOKENS, ignore_eos=True)
    async for _ in client.generate(Question(prompt=prompt, sampling=sampling, adapters=(use,))):
        pass
