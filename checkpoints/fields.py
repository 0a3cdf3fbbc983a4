"""Typed look-ups in foreign settings. Owns: careful JSON, errors that name file and key. Does not: know any key."""

import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorajax.errors import MalformedCheckpoint

MAX_JSON_BYTES = 16 * 2**20
"""Largest settings file that is read: a sharded model's index takes about 100 bytes a tensor."""

_POINTER = b"version https://git-lfs.github.com/"
"""What a repository's copy of a large file begins with until git-lfs has fetched the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Settings of one file. A key whose value is null counts as absent, as it does for `transformers`."""

    source: str
    """Name of the file, for messages."""
    values: Mapping[str, object]

    def whole(self, key: str, default: int | None = None, *, low: int = 1) -> int:
        """Whole number of at least `low`; without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise self.wrong(key, f"a whole number of at least {low}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Finite number above zero; without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """String; without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def inner(self, key: str) -> "Fields":
        """Settings nested under a key; empty where the key is absent."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(source=f"{self.source}: {key}", values=value)

    def whole_numbers(self, key: str) -> tuple[int, ...]:
        """One whole number or a list of them; empty where the key is absent."""
        value = self._value(key, [])
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
            raise self.wrong(key, "a whole number or a list of them")
        return tuple(numbers)

    def texts(self, key: str) -> list[str]:
        """List of strings; the key must be there."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(key, "a list of strings")
        return value

    def listed(self, key: str) -> "Fields":
        """Items of a list as settings, each under its place in it; empty where the key is absent."""
        value = self._value(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return Fields(source=f"{self.source}: {key}", values={str(place): item for place, item in enumerate(value)})

    def wrong(self, key: str, wanted: str) -> MalformedCheckpoint:
        """Error that says what the key holds and what it should."""
        value = self.values.get(key)
        got = "missing" if value is None else brief(value)
        return MalformedCheckpoint(f"{self.source}: {key} is {got}; it must be {wanted}")

    def _value(self, key: str, default: object) -> object:
        value = self.values.get(key)
        return default if value is None else value


def brief(value: object) -> str:
    """`repr` short enough for a one-line message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def parse_object(raw: bytes, source: str) -> dict[str, object]:
    """JSON object in these bytes; a repeated key at any depth is an error.

    Raises: MalformedCheckpoint beginning with `source`.
    """
    try:
        value = json.loads(raw, object_pairs_hook=_unique)
    except RecursionError:
        raise MalformedCheckpoint(f"{source}: its JSON is nested too deeply") from None
    except ValueError as error:
        raise MalformedCheckpoint(f"{source}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise MalformedCheckpoint(f"{source}: its JSON is {brief(value)}; it must be an object")
    return value


def read_fields(path: Path) -> Fields:
    """Settings in a JSON file of at most MAX_JSON_BYTES.

    Raises: MalformedCheckpoint if there is no such regular file, or it does not hold a JSON object.
    """
    check_regular(path)
    with path.open("rb") as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise MalformedCheckpoint(f"{path.name}: larger than {MAX_JSON_BYTES} bytes, which no settings file is")
    return Fields(source=path.name, values=parse_object(raw, path.name))


def check_regular(path: Path) -> None:
    """Refuse what is missing or is no regular file: opening a pipe would wait for ever.

    Raises: MalformedCheckpoint, also for what this process may not read, and for what git-lfs has not fetched yet.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise MalformedCheckpoint(f"{path.name}: no such file in {path.parent.name or path.parent}") from None
    except OSError as error:
        raise MalformedCheckpoint(f"{path.name[:80]}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise MalformedCheckpoint(f"{path.name}: not a regular file")
    if not os.access(path, os.R_OK):
        raise MalformedCheckpoint(f"{path.name}: cannot be read: this process lacks the permission")
    if _start(path, len(_POINTER)) == _POINTER:
        raise MalformedCheckpoint(f"{path.name}: a Git LFS pointer, not the file; run `git lfs pull` where it lies")


def _start(path: Path, num_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(num_bytes)
    except OSError:  # whoever opens it next says why
        return b""


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {brief(key)} is there twice")
        found[key] = value
    return found
