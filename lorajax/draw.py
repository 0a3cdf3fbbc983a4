"""From a step's logits to the tokens of its chunks. Owns: which sampling programs run, and their compiled forms.

Does not: know the model. Greedy chunks cost nothing here; the others pay for what they asked for, and only then.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from lorajax.plan import Chunk
from lorajax.sampler import Penalties, SamplingArrays, logprobs, penalized, sampled
from lorajax.spec import Sampling, Token
from pallas_kernels.work import padded


class Draw:
    """The compiled sampling programs of a replica, one set for each number of sequences.

    Owner: the runner.
    """

    def __init__(self, vocab_size: int, sizes: Iterable[int], device: jax.Device) -> None:
        """Prepare for logits[size, vocab_size] of every size, whole on a device of this process."""
        self._vocab_size = vocab_size
        self._sizes = sorted(sizes)
        self._whole = SingleDeviceSharding(device)
        self._programs: dict[tuple[str, int], Callable[..., jax.Array | tuple[jax.Array, ...]]] = {}

    def compile_jobs(self) -> dict[str, Callable[[], None]]:
        """What to compile before the first step, by name."""
        return {f"sampling for {size} sequences": partial(self._compile, size) for size in self._sizes}

    def tokens(
        self, chunks: Sequence[Chunk], logits: jax.Array, greedy: jax.Array, finite: jax.Array
    ) -> dict[str, Token | None]:
        """The next token of each chunk that samples, by request id; None where its logits are not finite."""
        wanted = [i for i, chunk in enumerate(chunks) if chunk.samples]
        settings = [chunks[i].request.sampling for i in wanted]
        size = logits.shape[0]
        chosen: jax.Array = greedy
        if any(sampling.has_penalties for sampling in settings):
            logits = self._run("penalize", size, logits, self._penalties(chunks, size))
        if any(sampling.has_penalties or not sampling.is_greedy for sampling in settings):
            chosen = self._run("sample", size, logits, _sampling_arrays(chunks, size))
        tokens, is_good = np.asarray(chosen), np.asarray(finite)
        reports: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}
        if any(sampling.logprobs is not None for sampling in settings):
            reports = self._reports(chunks, wanted, logits, chosen)
        return {
            chunks[i].request.id: Token(
                id=int(tokens[i]),
                logprob=reports[i][0] if i in reports else None,
                top=reports[i][1] if i in reports else (),
            )
            if is_good[i]
            else None
            for i in wanted
        }

    def _run(self, name: str, size: int, *inputs: object) -> jax.Array:
        """One program with one result."""
        return self._programs[name, size](*inputs)  # type: ignore[return-value]  # only "logprobs" gives a tuple

    def _reports(
        self, chunks: Sequence[Chunk], wanted: Sequence[int], logits: jax.Array, chosen: jax.Array
    ) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        own, ids, values = (np.asarray(part) for part in self._programs["logprobs", logits.shape[0]](logits, chosen))
        return {
            i: (float(own[i]), tuple((int(ids[i, j]), float(values[i, j])) for j in range(min(count, ids.shape[1]))))
            for i in wanted
            if (count := chunks[i].request.sampling.logprobs) is not None
        }

    def _penalties(self, chunks: Sequence[Chunk], size: int) -> Penalties:
        seen = np.zeros((size, self._vocab_size), bool)
        counts = np.zeros((size, self._vocab_size), np.int32)
        amounts = np.array([[1.0, 0.0, 0.0]] * size, np.float32)
        for i, chunk in enumerate(chunks):
            sampling = chunk.request.sampling
            if sampling.has_penalties:
                counts[i] = np.bincount(np.asarray(chunk.output, np.int64), minlength=self._vocab_size)
                seen[i, list(chunk.request.prompt)] = True
                seen[i] |= counts[i] > 0
                amounts[i] = sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
        return Penalties(
            seen=padded(seen, seen.shape, bool),
            counts=padded(counts, counts.shape, np.int32),
            repetition=padded(amounts[:, 0], (size,), np.float32),
            presence=padded(amounts[:, 1], (size,), np.float32),
            frequency=padded(amounts[:, 2], (size,), np.float32),
        )

    def _compile(self, size: int) -> None:
        logits = jax.ShapeDtypeStruct((size, self._vocab_size), jnp.float32, sharding=self._whole)
        tokens = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=self._whole)
        examples: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
            "penalize": (penalized, (logits, self._penalties((), size))),
            "sample": (sampled, (logits, _sampling_arrays((), size))),
            "logprobs": (logprobs, (logits, tokens)),
        }
        for name, (function, inputs) in examples.items():
            jitted = jax.jit(function, out_shardings=self._whole)
            self._programs[name, size] = jitted.lower(*inputs).compile()


def _sampling_arrays(chunks: Sequence[Chunk], size: int) -> SamplingArrays:
    rows = [_row(chunk.request.sampling, chunk) for chunk in chunks] + [(0.0, 1.0, 0, 0.0, 0, 0)] * (size - len(chunks))
    temperature, top_p, top_k, min_p, seed, num_output = zip(*rows, strict=True)
    halves = [(number >> 32, number & 0xFFFFFFFF) for number in seed]
    return SamplingArrays(
        temperature=padded(temperature, (size,), np.float32),
        top_p=padded(top_p, (size,), np.float32),
        top_k=padded(top_k, (size,), np.int32),
        min_p=padded(min_p, (size,), np.float32),
        seed=padded(halves, (size, 2), np.uint32),
        num_output=padded(num_output, (size,), np.int32),
    )


def _row(sampling: Sampling, chunk: Chunk) -> tuple[float, float, int, float, int, int]:
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    return sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, seed, chunk.num_output
