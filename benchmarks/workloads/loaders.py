"""Traces from files. Owns: CSV and JSON lines, packed or not, their errors, the join of GenTD26. Does not: scale.

Read as published: Azure LLM inference 2023 and 2024 (github.com/Azure/AzurePublicDataset), GenTD26
(github.com/alibaba/clusterdata, cluster-trace-v2026-GenAI: a folder with both of its request files), BurstGPT, and what
`files.write` wrote; anything else whose columns have common names or are named.
"""

import csv
import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.workloads.columns import MAY_LACK, READERS, Cell, guessed
from benchmarks.workloads.traces import Trace

_GENTD26 = ("lora_request_trace", "data_trace_processed")
_SHARED = ("exec_time_seconds", "prompt_length", "num_images_per_prompt", "num_inference_steps")

_LATEST_S = 1e11
"""Since 1970: later times are in ms. Traces of prompts by `hash_ids` (Mooncake, Qwen) use both units under one name."""

type Row = Mapping[str, Cell]


def read(path: Path, columns: Mapping[str, str] | None = None) -> Trace:
    """The trace in a file (.csv or .jsonl, also .gz or .tar.gz), or in GenTD26's folder.

    Raises: ValueError of one line, with file and line, that says what is wrong and how to mend it.
    """
    if path.is_dir():
        return _joined(path)
    rows = _rows(path)
    first = next(rows, (0, {}))
    about = first[1] if isinstance(first[1].get("ranks"), dict) else {}
    if not about:
        rows = chain([first], rows)
    return _trace(path, about, rows, columns or {})


def _trace(path: Path, about: Row, rows: Iterator[tuple[int, Row]], said: Mapping[str, str]) -> Trace:
    known = list(rows)
    header = dict.fromkeys(column for _, row in known for column in row)
    if not header:
        raise ValueError(f"{path} has no requests; give a file with a header and rows")
    try:
        kinds = guessed(header, said)
    except ValueError as error:
        raise ValueError(f"{error} (of {path})") from None
    if not kinds:
        raise ValueError(
            f"{path}: none of {', '.join(header)[:80]} is a known name; "
            "say which is which: --columns time=…,prompt=…,output=…"
        )
    read = {kind: list[Cell]() for kind in kinds}
    for line, row in known:
        for kind, column in kinds.items():
            read[kind].append(_cell(path, line, row, kind, column))
    times_s = np.array(read.get("time") or read.get("time_ms") or [np.nan] * len(read[next(iter(kinds))]), np.float64)
    if "time" in kinds and "time" not in said and ("hash_ids" in header or np.nan_to_num(times_s).max() > _LATEST_S):
        raise ValueError(
            f"{path}: {kinds['time']} may be in seconds or in milliseconds; "
            f"say --columns time={kinds['time']}, or --columns time_ms={kinds['time']}"
        )
    begin_s = 0.0 if about or np.isnan(times_s).all() else np.nanmin(times_s)
    adapters = tuple(read.get("adapter", ()))
    ranks = _ranks(path, adapters, read.get("rank", ()))
    return Trace(
        label=path.name,
        at_s=times_s - begin_s,
        prompt_tokens=np.array(read.get("prompt", ()), np.int64),
        output_tokens=np.array(read.get("output", ()), np.int64),
        adapters=adapters,
        tenants=tuple(read.get("tenant", ())),
        ranks=about.get("ranks", ranks),
        duration_s=float(about.get("facts", {}).get("duration_s", 0.0)),
    )


def _ranks(path: Path, adapters: Sequence[str], ranks: Sequence[int]) -> dict[str, int]:
    """Of each adapter, where a row says it."""
    found: dict[str, int] = {}
    for name, rank in zip(adapters, ranks, strict=False):
        if name and rank and found.setdefault(name, rank) != rank:
            raise ValueError(f"{path}: adapter {name} has ranks {found[name]} and {rank}; give two adapters two names")
    if ranks and (unknown := [name for name in adapters if name and name not in found]):
        raise ValueError(f"{path}: adapter {unknown[0]} has no rank; write it, or take the column out")
    return found


def _cell(path: Path, line: int, row: Row, kind: str, column: str) -> Cell:
    read, wanted = READERS[kind]
    try:
        return read(row.get(column) if kind in MAY_LACK else row[column])
    except (KeyError, TypeError, ValueError, SyntaxError, OverflowError):
        got = f"is {row[column]!r}" if row.get(column) not in (None, "") else "is missing"
        raise ValueError(f"{path}:{line}: {column} {got}; write {wanted}, or take the row out") from None


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows with the number of their line."""
    try:
        text = _text(path)
        if ".jsonl" in path.suffixes or ".json" in path.suffixes:
            yield from _json_rows(path, text)
        else:
            yield from _csv_rows(path, text)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, tarfile.TarError, csv.Error) as error:
        raise ValueError(f"{path}: {error}; give a readable .csv or .jsonl, or one packed as .gz") from error


def _csv_rows(path: Path, text: io.StringIO) -> Iterator[tuple[int, Row]]:
    """Cells are kept apart by whatever of comma, semicolon and tab the header has most of."""
    header = text.getvalue().partition("\n")[0]
    rows = csv.DictReader(text, delimiter=max(",;\t", key=header.count))
    names = [name.strip() for name in rows.fieldnames or ()]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}; take one of them out")
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(
                f"{path}:{rows.line_num}: not as many cells as the header has; mend the row, or take it out"
            )
        yield rows.line_num, row


def _json_rows(path: Path, text: io.StringIO) -> Iterator[tuple[int, Row]]:
    for line, written in enumerate(text, 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{line}: {error}; write one JSON object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{line}: {written.strip()[:40]} is no object; write one JSON object a line")
        yield line, row


def _text(path: Path) -> io.StringIO:
    packed = path.read_bytes()
    if path.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            inside = [one for one in archive if one.isfile() and not Path(one.name).name.startswith(".")]
            member = archive.extractfile(inside[0]) if inside else None
            packed = member.read() if member else b""
    elif path.suffix == ".gz":
        packed = gzip.decompress(packed)
    return io.StringIO(packed.decode("utf-8-sig"), newline="")


def _joined(folder: Path) -> Trace:
    """GenTD26: one file has times and tenants, the other adapters; the first is the tail of the second."""
    timed, named = (_one_of(folder, stem) for stem in _GENTD26)
    times, adapters = read(timed), read(named)
    early = len(adapters.at_s) - len(times.at_s)
    if early < 0 or _shared(named)[early:] != _shared(timed):
        raise ValueError(f"{named} does not end with the requests of {timed}; take both from one commit")
    return replace(
        times,
        label=folder.name,
        at_s=np.concatenate([np.full(early, np.nan), times.at_s]),
        adapters=adapters.adapters,
        tenants=("",) * early + times.tenants,
    )


def _shared(path: Path) -> Sequence[tuple[Cell, ...]]:
    return [tuple(row.get(column) for column in _SHARED) for _, row in _rows(path)]


def _one_of(folder: Path, stem: str) -> Path:
    found = [path for suffix in (".csv", ".csv.gz", ".tar.gz") if (path := folder / (stem + suffix)).exists()]
    if not found:
        raise ValueError(
            f"{folder} has no {stem}.csv or .tar.gz; give a file, or the folder of GenTD26 with both files"
        )
    return found[0]
