"""The page about one file of runs. Owns: what it says, in which order. Does not: compute, draw, read or write files."""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from benchmarks.outcomes import block, html
from benchmarks.outcomes.files import Result
from benchmarks.outcomes.html import Picture, Section, Table
from benchmarks.outcomes.records import HostUse
from benchmarks.outcomes.statistics import Group


def page(results: Sequence[Result], pictures: ModuleType) -> str:
    """The first of the runs in full, all of them in one table where there are several; `pictures` draws."""
    first = results[0]
    title = f"{first.run.system} under {first.run.workload}"
    found = [*_tables(results)]
    for one in drawn(results, pictures):
        found.append(Section(heading=one.heading, picture=pictures.svg(one.figure), caption=one.caption))
    return html.page(title, found, first.run.facts)


def drawn(results: Sequence[Result], pictures: ModuleType) -> Iterator[Picture]:
    """What can be drawn of the first run."""
    run, summary = results[0].run, results[0].summary
    yield Picture(
        name="ranks",
        heading="TTFT by rank",
        caption="Share of a rank's requests whose first token came within so many seconds; failed ones never did.",
        figure=pictures.ttft_by_rank(summary.cdf_by_rank, summary.slo.ttft_s),
    )
    ranks = {name: group.rank for name, group in summary.by_adapter.items() if name}
    if run.placements and ranks:
        yield Picture(
            name="placements",
            heading="Placement over time",
            caption="Rows are adapters, columns are hosts; darker: more of the adapter's requests go there.",
            figure=pictures.placements(run.placements, ranks, sorted(run.hosts)),
        )


def _tables(results: Sequence[Result]) -> Iterator[Section]:
    run, summary = results[0].run, results[0].summary
    words = f"Service level: {block.objective(summary.slo)}. Latencies count from when a request was due."
    yield Section(heading="Summary", words=words, text=block.text(summary))
    if len(results) > 1:
        yield Section(heading="All runs", table=_runs(results))
    yield Section(heading="By rank", table=grouped("rank", summary.by_rank))
    if summary.by_adapter.keys() - {""}:
        words = f"The busiest of {len(summary.by_adapter)}."
        yield Section(heading="By adapter", words=words, table=grouped("adapter", block.busiest(summary.by_adapter)))
    if run.hosts:
        is_outside = not any(use.busy_s for use in run.hosts.values())
        words = (
            "Seen from outside: an adapter that a request waited for counts as in host memory." if is_outside else ""
        )
        yield Section(heading="Hosts", words=words, table=_hosts(run.hosts))


def grouped[K](name: str, groups: Mapping[K, Group]) -> Table:
    """The rows of `block.tables` for a page."""
    return [(name, *block.HEAD), *((str(key) or "(base)", *block.cells(group)) for key, group in groups.items())]


def _runs(results: Sequence[Result]) -> Table:
    head = ("seed", "requests/s", "goodput (requests/s)", "tokens out/s", "P95 TTFT, failed ones too", "within SLO")
    rows = [
        (
            str(result.run.facts.get("seed", "")),
            f"{result.summary.request_throughput:.2f}",
            f"{result.summary.goodput:.2f}",
            f"{result.summary.output_throughput:.1f}",
            block.milliseconds(result.summary.tail_ttft_s),
            f"{result.summary.attainment:.1%}",
        )
        for result in results
    ]
    return [head, *rows]


def _hosts(hosts: Mapping[str, HostUse]) -> Table:
    head = (
        "host",
        "in steps",
        "tokens",
        "holds (mean)",
        "holds (most)",
        "adapters (most)",
        "on device",
        "in host memory",
    )
    rows = [
        (
            name,
            f"{use.busy_s:.1f} s" if use.busy_s else "-",
            str(use.tokens),
            block.size(use.mean_held_bytes),
            block.size(use.max_held_bytes),
            str(use.max_held_adapters),
            str(use.device_hits),
            str(use.host_hits),
            str(use.misses),
            f"{use.stall_s:.2f} s",
        )
        for name, use in hosts.items()
    ]
    return [(*head, "elsewhere", "waited for adapters"), *rows]
