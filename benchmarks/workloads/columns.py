"""Which column of a file means what. Owns: common names, how one cell is read. Does not: open files."""

import ast
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

type Cell = Any
"""Text of CSV, or whatever a line of JSON holds."""

_TOO_MANY = 2**31

NAMES: Mapping[str, tuple[str, ...]] = {
    kind: tuple(names.split())
    for kind, names in {
        "time": "t_s at_s timestamp timestamp_s time time_s arrival_time arrival_s arrived_at gmt_create",
        "time_ms": "t_ms timestamp_ms time_ms arrival_ms arrival_time_ms",
        "prompt": "prompt_tokens contexttokens input_tokens request_tokens num_prefill_tokens input_length input_len "
        "prompt_len user_tokens",
        "output": "output_tokens generatedtokens completion_tokens response_tokens num_decode_tokens output_length "
        "output_len reply_tokens",
        "adapter": "adapter adapter_id adapter_name lora lora_id lora_ids lora_name lora_args",
        "rank": "rank lora_rank adapter_rank",
        "tenant": "tenant tenant_id user user_id groupid",
    }.items()
}
"""Kind of column -> what it is called in public traces, in small letters with underscores."""


def guessed(header: Iterable[str], said: Mapping[str, str]) -> dict[str, str]:
    """Kind -> column of this header: those that were said, and for the rest the first with a common name.

    Raises: ValueError, which starts with `columns`, if a column that was said is not there.
    """
    present = list(header)
    for kind, column in said.items():
        if column not in present:
            raise ValueError(f"columns {kind}={column}: the file has {', '.join(present)}; name one of them")
    plain = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in reversed(present)}
    common = {
        kind: next((plain[name] for name in names if name in plain), "")
        for kind, names in NAMES.items()
        if not {kind, kind.removesuffix("_ms"), kind + "_ms"} & said.keys()
    }
    return {kind: column for kind, column in common.items() if column} | dict(said)


def parsed(text: str) -> dict[str, str]:
    """`time=when,adapter=model`: kinds and columns, as a user says them.

    Raises: ValueError for another form, or a kind that is not known.
    """
    said = dict(part.partition("=")[::2] for part in text.split(",") if part)
    if unknown := [kind for kind, column in said.items() if kind not in NAMES or not column]:
        raise ValueError(f"{unknown[0]!r} is no KIND=COLUMN; kinds are {', '.join(NAMES)}")
    return said


def seconds(cell: Cell) -> float:
    """Seconds as a number, or a date and time (without a zone: UTC); NaN where empty."""
    if cell is None or cell == "":
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        moment = datetime.fromisoformat(cell.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if math.isinf(number):
        raise ValueError
    return number


def milliseconds(cell: Cell) -> float:
    """The same in ms, as seconds."""
    return seconds(cell) / 1000


def tokens(cell: Cell) -> int:
    """A whole number that is not negative; `12.0` is one."""
    if not 0 <= (number := float(cell)) < _TOO_MANY or number != int(number):
        raise ValueError
    return int(number)


def rank(cell: Cell) -> int:
    """A rank; 0 where empty, as of the base model."""
    return 0 if cell is None or cell == "" else tokens(cell)


def adapter(cell: Cell) -> str:
    """A name; the first of a list, of names with `;` between, or of GenTD26's `lora_args`; empty: the base model."""
    if isinstance(cell, str) and cell.startswith("["):
        cell = ast.literal_eval(cell)
    first = next(iter(cell), "") if isinstance(cell, list) else cell
    name = first["modelVersionId"] if isinstance(first, dict) else first
    return "" if name is None else str(name).partition(";")[0].strip()


def tenant(cell: Cell) -> str:
    """A name, or nothing."""
    return "" if cell is None else str(cell)


READERS: Mapping[str, tuple[Callable[[Cell], float | int | str], str]] = {
    "time": (seconds, "seconds, or a date and time such as 2023-11-16 18:17:03.97"),
    "time_ms": (milliseconds, "milliseconds"),
    "prompt": (tokens, "a whole number of tokens"),
    "output": (tokens, "a whole number of tokens"),
    "adapter": (adapter, "the name of an adapter, or nothing"),
    "rank": (rank, "a whole number"),
    "tenant": (tenant, "a name, or nothing"),
}
"""Kind -> how a cell is read, and what it should hold."""
MAY_LACK = ("adapter", "rank", "tenant")
"""Kinds that a line of JSON may leave out: the base model, and nobody in particular."""
