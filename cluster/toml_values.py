"""Values of a TOML file, narrowed. Owns: what a text, number, size or address may be, in words that follow "it is …;".

Does not: know any key.
"""

import math
from collections.abc import Callable
from typing import Any

from cluster.config import parse_address, parse_bytes

type Value = Any  # what TOML may hold; each reader narrows it
type Reader = Callable[[Value], object]


def text(value: Value) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("it must be a text in quotes")
    return value


def flag(value: Value) -> bool:
    """Yes or no, which TOML writes as true and false."""
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def count(value: Value) -> int:
    """A whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("it must be a whole number of at least 1")
    return value


def size(value: Value) -> int:
    """A number of bytes, such as 4096 or "256MiB"."""
    return count(parse_bytes(value) if isinstance(value, str) else value)


def seconds(value: Value) -> float:
    """A positive number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError("it must be a positive number of seconds")
    return float(value)


def ratio(value: Value) -> float:
    """A positive number without a unit."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError("it must be a positive number, such as 0.5")
    return float(value)


def address(value: Value) -> str:
    """An address, written HOST:PORT."""
    parse_address(text(value))
    return str(value)


def one_of(words: tuple[str, ...]) -> Reader:
    """One of a few words."""

    def read_word(value: Value) -> str:
        if value not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return str(value)

    return read_word


def list_of(read_one: Reader) -> Reader:
    """A list, each value of it read by `read_one`."""

    def read_list(value: Value) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise ValueError("it must be a list")
        return tuple(map(read_one, value))

    return read_list


def derived(source: str) -> Reader:
    """Refuse a key that is said elsewhere."""

    def refuse(_: Value) -> None:
        raise ValueError(f"it follows from {source}; set that")

    return refuse
