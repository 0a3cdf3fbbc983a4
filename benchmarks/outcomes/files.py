"""Runs in files. Owns: the JSON of runs and the CSV of their outcomes, both ways. Does not: compute.

A JSON file holds the runs of one system under one workload: one, or several that differ in their seed. JSON knows no
infinity: where a time may be infinite (nothing came, or nothing is asked), null stands for it.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.outcomes.records import HostUse, Outcome, Run
from benchmarks.outcomes.statistics import Distribution, Group, Pool, Slo, Summary

type Json = Any
"""What json.loads returns."""

KIND = "runs"
"""Says in the file what it is."""
_COLUMNS = tuple(field.name for field in fields(Outcome))
_NUMBERS = {"due_s": float, "sent_s": float, "first_s": float, "end_s": float, "rank": int} | {
    "prompt_tokens": int,
    "output_tokens": int,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A run and what there is to say about it."""

    run: Run
    """Without outcomes where it was read from JSON: they are in the CSV beside it."""
    summary: Summary


def write(run: Run, summary: Summary, folder: Path, name: str) -> Path:
    """Put one run into `name`.json and its outcomes into `name`.csv; returns the path of the JSON."""
    return write_all((Result(run=run, summary=summary),), folder, name)


def write_all(results: Sequence[Result], folder: Path, name: str) -> Path:
    """Put runs that differ in their seed into `name`.json, their outcomes into `name`.csv, `name`-1.csv and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(results):
        write_outcomes(result.run.outcomes, folder / (f"{name}-{number}.csv" if number else f"{name}.csv"))
    path = folder / f"{name}.json"
    text = json.dumps({"kind": KIND, "runs": [_as_json(one) for one in results]}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[Result, ...]:
    """The runs of a JSON file that `write` or `write_all` wrote.

    Raises: ValueError naming the file where it holds something else; OSError where it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["kind"] != KIND:
            raise ValueError(f"kind is {found['kind']!r}")
        if not found["runs"]:
            raise ValueError("its list of runs is empty")
        return tuple(map(_result, found["runs"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wanted = "write it with `python -m benchmarks simulate` or `serve`"
        raise ValueError(f"{path} holds no runs ({error}); {wanted}") from error


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """One line for each request; times are seconds after the start of the run, those of messages joined by spaces."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for one in outcomes:
            row = {name: getattr(one, name) for name in _COLUMNS}  # the columns are the fields
            writer.writerow((row | {"token_s": " ".join(map(repr, one.token_s))}).values())


def read_outcomes(path: Path) -> tuple[Outcome, ...]:
    """What `write_outcomes` wrote. Raises: ValueError naming the file where it holds something else."""
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return tuple(_outcome(row) for row in csv.DictReader(file, strict=True))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} holds no outcomes ({error}); its columns are {', '.join(_COLUMNS)}") from error


def _outcome(row: Mapping[str, str]) -> Outcome:
    numbers: dict[str, Json] = {name: number(row[name]) for name, number in _NUMBERS.items()}
    return Outcome(**{**row, **numbers, "token_s": tuple(map(float, row["token_s"].split()))})


def summary_json(summary: Summary) -> Json:
    """A summary as JSON, with what follows from it beside it for readers that are no programs of ours."""
    derived = ("num_successful", "request_throughput", "goodput", "output_throughput", "total_throughput", "attainment")
    return _finite(asdict(summary)) | {"derived": {name: getattr(summary, name) for name in derived}}


def summary_of(found: Json) -> Summary:
    """What `summary_json` wrote."""
    kept = {name: value for name, value in found.items() if name != "derived"}
    return Summary(
        **kept
        | {name: _distribution(found[name]) for name in ("ttft", "tpot", "itl", "e2el", "lateness")}
        | {
            "slo": Slo(**{name: _number(value) for name, value in found["slo"].items()}),
            "tail_ttft_s": _number(found["tail_ttft_s"]),
            "imbalance": math.nan if found["imbalance"] is None else found["imbalance"],
            "pool": Pool(**found["pool"]),
            "by_rank": {int(rank): _group(group) for rank, group in found["by_rank"].items()},
            "by_adapter": {name: _group(group) for name, group in found["by_adapter"].items()},
            "cdf_by_rank": {int(rank): tuple(map(_number, cdf)) for rank, cdf in found["cdf_by_rank"].items()},
        }
    )


def _as_json(result: Result) -> Json:
    run = result.run
    return {
        "system": run.system,
        "workload": run.workload,
        "facts": _finite(dict(run.facts)),
        "span_s": run.span_s,
        "summary": summary_json(result.summary),
        "hosts": {name: asdict(use) for name, use in run.hosts.items()},
        "moved_bytes": run.moved_bytes,
        "num_moves": run.num_moves,
        "placements": [{"at_s": at_s, "shares": shares} for at_s, shares in run.placements],
    }


def _result(found: Json) -> Result:
    run = Run(
        system=found["system"],
        workload=found["workload"],
        facts=found["facts"],
        outcomes=(),
        span_s=found["span_s"],
        hosts={name: HostUse(**use) for name, use in found["hosts"].items()},
        moved_bytes=found["moved_bytes"],
        num_moves=found["num_moves"],
        placements=tuple((one["at_s"], one["shares"]) for one in found["placements"]),
    )
    return Result(run=run, summary=summary_of(found["summary"]))


def _group(found: Json) -> Group:
    parts = {"ttft": _distribution(found["ttft"]), "tpot": _distribution(found["tpot"])}
    return Group(**found | parts | {"tail_ttft_s": _number(found["tail_ttft_s"])})


def _distribution(found: Json) -> Distribution | None:
    return None if found is None else Distribution(**found)


def _number(found: float | None) -> float:
    return math.inf if found is None else found


def _finite(found: Json) -> Json:
    """The same with null for what is no number in JSON."""
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    if isinstance(found, Mapping):
        return {str(key): _finite(value) for key, value in found.items()}
    return [_finite(value) for value in found] if isinstance(found, (list, tuple)) else found
