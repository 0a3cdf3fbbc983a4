"""Prompts that mean nothing, of the lengths that a workload wants. Owns: their seed, their alphabet, and the limits.

Every request has a prompt of its own, so no prefix cache helps by chance.
"""

from dataclasses import dataclass
from random import Random

from benchmarks.drive.records import Prompt
from benchmarks.workloads.records import Arrival

TOKEN_IDS = (5, 120)
"""From and below: ids that every vocabulary has, of plain characters in most."""
_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "that",
    "with",
    "as",
    "it",
    "by",
    "at",
    "from",
    "this",
)
"""Each one token in most vocabularies, together with the space before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of one request, as they are asked for."""

    prompt_tokens: int
    output_tokens: int


def lengths(arrival: Arrival, max_model_len: int | None) -> Lengths:
    """What the workload wants, at least one token each, cut where both together exceed the server's context."""
    prompt, output = max(1, arrival.prompt_tokens), max(1, arrival.output_tokens)
    if max_model_len is not None:
        output = min(output, max_model_len - 1)
        prompt = min(prompt, max_model_len - output)
    return Lengths(prompt_tokens=prompt, output_tokens=output)


def prompt(num_tokens: int, seed: int, number: int, *, is_text: bool) -> Prompt:
    """The prompt of request `number`: token ids, or words of about one token each."""
    random = Random(f"{seed} {number}")
    if is_text:
        return " ".join(random.choices(_WORDS, k=num_tokens))
    return tuple(random.choices(range(*TOKEN_IDS), k=num_tokens))
