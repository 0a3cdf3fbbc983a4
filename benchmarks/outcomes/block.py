"""A run as text. Owns: the block that people know from `vllm bench serve`, and tables by rank and by adapter under it.

Does not: compute. The block has vLLM's lines under vLLM's names, in its order, and ours after them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.outcomes.statistics import Distribution, Group, Slo, Summary

_WIDTH, _LABEL = 50, 40
_MANY_LATE = 0.01
"""Share of requests sent late above which the driver, not the server, may be what was measured."""
_MOST_ROWS = 20


def text(summary: Summary) -> str:
    """The block: throughput, latencies, then what `vllm bench serve` does not say."""
    return "\n".join((*_throughput(summary), *_latencies(summary), *_service(summary), *_pool(summary), "=" * _WIDTH))


def tables(summary: Summary) -> str:
    """The requests by rank, and by adapter where there are any: the busiest of them."""
    parts = [_table("rank", summary.by_rank)]
    if summary.by_adapter.keys() - {""}:
        parts.append(_table("adapter", summary.by_adapter))
    return "\n\n".join(parts)


HEAD = ("requests", "failed", "tokens in", "tokens out", "median TTFT", "P95 TTFT", "mean TPOT", "within SLO")
"""Of the columns of `cells`."""


def cells(group: Group) -> tuple[str, ...]:
    """One row of a table, with its units."""
    return (
        str(group.num_requests),
        str(group.num_failed),
        str(group.input_tokens),
        str(group.output_tokens),
        "-" if group.ttft is None else milliseconds(group.ttft.median),
        "-" if group.ttft is None else milliseconds(group.ttft.p95),
        "-" if group.tpot is None else milliseconds(group.tpot.mean),
        f"{group.attainment:.1%}",
    )


def milliseconds(value_s: float) -> str:
    """As many digits as matter."""
    value = value_s * 1e3
    return f"{value:.0f} ms" if not value or abs(value) >= 100 else f"{value:.3g} ms"


def size(num_bytes: float) -> str:
    """Bytes in the unit that suits them."""
    power = min(4, int(math.log2(num_bytes) // 10)) if num_bytes >= 1 else 0
    return f"{num_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _throughput(summary: Summary) -> Iterator[str]:
    yield f"{' Serving Benchmark Result ':=^{_WIDTH}}"
    yield _line("Successful requests:", summary.num_successful)
    yield _line("Failed requests:", sum(summary.failed.values()))
    for code, num in summary.failed.items():
        yield _line(f"  of which {code}:", num)
    yield _line("Benchmark duration (s):", summary.duration_s)
    yield _line("Total input tokens:", summary.input_tokens)
    yield _line("Total generated tokens:", summary.output_tokens)
    yield _line("Request throughput (req/s):", summary.request_throughput)
    if _asks(summary.slo):
        yield _line("Request goodput (req/s):", summary.goodput)
    yield _line("Output token throughput (tok/s):", summary.output_throughput)
    yield _line("Total token throughput (tok/s):", summary.total_throughput)


def _latencies(summary: Summary) -> Iterator[str]:
    for heading, name, found in (
        ("Time to First Token", "TTFT", summary.ttft),
        ("Time per Output Token (excl. 1st token)", "TPOT", summary.tpot),
        ("Inter-token Latency", "ITL", summary.itl),
        ("End-to-end Latency", "E2EL", summary.e2el),
    ):
        if found is not None:
            yield from _distribution(heading, name, found)


def _distribution(heading: str, name: str, found: Distribution) -> Iterator[str]:
    yield f"{heading:-^{_WIDTH}}"
    for word, value_s in (("Mean", found.mean), ("Median", found.median), ("P95", found.p95), ("P99", found.p99)):
        yield _line(f"{word} {name} (ms):", value_s * 1e3)


def _service(summary: Summary) -> Iterator[str]:
    if _asks(summary.slo):
        yield f"{'Service level: ' + objective(summary.slo):-^{_WIDTH}}"
        yield _line("Requests within (%):", summary.attainment * 100)
        yield _line(f"P{summary.slo.quantile * 100:g} TTFT, failed ones too (ms):", summary.tail_ttft_s * 1e3)
    if summary.num_late:
        assert summary.lateness is not None
        yield f"{'Late sends':-^{_WIDTH}}"
        yield _line("Requests sent over 10 ms late:", summary.num_late)
        yield _line("Mean lateness (ms):", summary.lateness.mean * 1e3)
        yield _line("P99 lateness (ms):", summary.lateness.p99 * 1e3)
        if summary.num_late > _MANY_LATE * summary.num_requests:
            yield "Too many: give the driver more cores, or raise --max-concurrency"


def _pool(summary: Summary) -> Iterator[str]:
    pool = summary.pool
    shares = pool.hit_shares
    if shares is None and math.isnan(summary.imbalance):
        return
    yield f"{'Adapters and hosts':-^{_WIDTH}}"
    if shares is not None:
        yield _line("Adapters found on the device (%):", shares[0] * 100)
        if math.isnan(summary.imbalance):  # seen from outside, a wait does not tell where the adapter was
            yield _line("Adapters waited for (%):", (shares[1] + shares[2]) * 100)
        else:
            yield _line("Adapters found in host memory (%):", shares[1] * 100)
            yield _line("Adapters found elsewhere (%):", shares[2] * 100)
    yield _line("Waited for adapters, sum (s):", pool.stall_s)
    yield _line("Adapters held, all hosts (MiB):", pool.held_bytes / 2**20)
    yield _line("Adapters held, fullest host (MiB):", pool.max_held_bytes / 2**20)
    yield _line("Adapters held, fullest host:", pool.max_held_adapters)
    yield _line("Adapters moved (MiB):", pool.moved_bytes / 2**20)
    yield _line("Adapter moves:", pool.num_moves)
    if not math.isnan(summary.imbalance):
        yield _line("Busiest host over the mean:", summary.imbalance)


def objective(slo: Slo) -> str:
    """What is asked of a request, in words."""
    limits = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2EL", slo.e2el_s))
    return ", ".join(f"{name} ≤ {limit_s:g} s" for name, limit_s in limits if math.isfinite(limit_s)) or "nothing asked"


def _asks(slo: Slo) -> bool:
    return min(slo.ttft_s, slo.tpot_s, slo.e2el_s) < math.inf


def _line(label: str, value: float) -> str:
    number = f"{value}" if isinstance(value, int) else f"{value:.2f}"
    return f"{label:<{_LABEL}} {number:<10}".rstrip()


def _table[K](name: str, groups: Mapping[K, Group]) -> str:
    shown = busiest(groups)
    rows = [(name, *HEAD), *((str(key) or "(base)", *cells(group)) for key, group in shown.items())]
    left_out = len(groups) - len(shown)
    return aligned(rows) + (f"\n… and {left_out} more with fewer requests" if left_out else "")


def busiest[K](groups: Mapping[K, Group]) -> dict[K, Group]:
    """Those with the most requests, in the order given: as many as a reader wants to see."""
    kept = set(sorted(groups, key=lambda key: -groups[key].num_requests)[:_MOST_ROWS])
    return {key: group for key, group in groups.items() if key in kept}


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under each other, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))).rstrip() for row in rows
    )
