"""What `lorajax demo` shows. Owns: phases, answers side by side, the closing tables.
Does not: ask or start anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cluster.config import format_bytes
from cluster.records import AdapterInfo, Piece, Question, Summary
from lorajax.spec import num_rank_pages

_LANE_COLUMNS = 38
_COLORS = ("white", "cyan", "green", "yellow", "magenta", "blue")


@dataclass(slots=True, kw_only=True)
class Lane:
    """One question of the demo and its answer so far."""

    title: str
    prompt: str
    question: Question
    text: str = ""
    summary: Summary | None = None

    def add(self, record: Piece | Summary) -> None:
        """Take the next record of the answer."""
        if isinstance(record, Summary):
            self.summary = record
        else:
            self.text += record.text


class View(Protocol):
    """Where the demo's news go; a context that is open while there are any."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(self, *error: object) -> None:
        """Stop showing."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def lanes(self, lanes: Sequence[Lane]) -> None:
        """Show these answers from now on, as they grow."""

    def finished(self, lane: Lane) -> None:
        """One answer is whole."""


class PlainView:
    """For logs and pipes: a line per phase, and each answer once it is whole."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to clean."""

    def phase(self, text: str) -> None:
        """One line."""
        self._console.print(f"… {text}", markup=False)

    def lanes(self, lanes: Sequence[Lane]) -> None:
        """One line; the answers follow as they finish."""
        self.phase(f"asking {len(lanes)} questions at once: {', '.join(lane.title for lane in lanes)}")

    def finished(self, lane: Lane) -> None:
        """Who was asked, what was asked, what was answered."""
        self._console.print(f"\n[{lane.title}] {lane.prompt}\n{lane.text.strip()}", markup=False)


class LiveView:
    """For a terminal: a spinner with the phase, then the answers side by side as they grow."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._spinner = Spinner("dots", "starting")
        self._lanes: Sequence[Lane] = ()
        self._live = Live(get_renderable=self._frame, console=console, transient=True, refresh_per_second=10)

    def __enter__(self) -> Self:
        """Start refreshing."""
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Replace the moving picture by a still one, which no terminal height cuts."""
        self._live.stop()
        if self._lanes:
            self._console.print(side_by_side(self._lanes, self._console.width))

    def phase(self, text: str) -> None:
        """Beside the spinner."""
        self._spinner.update(text=text)

    def lanes(self, lanes: Sequence[Lane]) -> None:
        """Panels from the next refresh on."""
        self._lanes = lanes

    def finished(self, lane: Lane) -> None:
        """Its panel says so by itself."""

    def _frame(self) -> RenderableType:
        return Group(self._spinner, side_by_side(self._lanes, self._console.width)) if self._lanes else self._spinner


def side_by_side(lanes: Sequence[Lane], width: int) -> RenderableType:
    """The answers in panels of equal width, as many in a row as fit."""
    num_columns = max(1, min(3, width // _LANE_COLUMNS))
    grid = Table.grid(expand=True)
    for _ in range(num_columns):
        grid.add_column(ratio=1)
    panels = [_panel(lane, _COLORS[index % len(_COLORS)]) for index, lane in enumerate(lanes)]
    for start in range(0, len(panels), num_columns):
        grid.add_row(*panels[start : start + num_columns])
    return grid


def _panel(lane: Lane, color: str) -> Panel:
    cursor = "" if lane.summary else "▌"
    body = Text.assemble((lane.prompt, "dim"), "\n", lane.text.strip(), cursor)
    return Panel(body, title=Text(lane.title, style="bold"), title_align="left", border_style=color)


def adapter_table(adapters: Sequence[AdapterInfo], targets_of: dict[str, tuple[str, ...]]) -> Table:
    """What each adapter costs and where it is."""
    table = _table("Adapters", ("adapter", "targets", "where"), ("rank", "pages", "size"))
    for info in adapters:
        where = ", ".join(f"{level} of {host}" for host, level in info.level_of) or "store"
        targets = " ".join(target.removesuffix("_proj") for target in targets_of.get(info.name, ()))
        size = (str(info.rank), str(num_rank_pages(info.rank)), format_bytes(info.num_bytes))
        table.add_row(info.name, targets, where, *size)
    return table


def request_table(lanes: Sequence[Lane]) -> Table:
    """How long each answer took, and for what."""
    numbers = ("tokens", "first token", "tokens/s", "queue", "adapter wait", "prefill")
    table = _table("Requests", ("answered by",), numbers)
    for lane in lanes:
        if lane.summary is not None:
            table.add_row(lane.title, *_timings(lane.summary))
    return table


def _timings(summary: Summary) -> tuple[str, ...]:
    timing = summary.timing
    decode_s = timing.total_s - timing.first_token_s
    rate = f"{(summary.num_completion_tokens - 1) / decode_s:.1f}" if decode_s > 0 else "-"
    waits = (timing.queue_s, timing.adapter_wait_s, timing.prefill_s)
    in_ms = (f"{1000 * wait_s:.0f} ms" for wait_s in waits)
    return (str(summary.num_completion_tokens), f"{1000 * timing.first_token_s:.0f} ms", rate, *in_ms)


def page_sentence(adapters: Sequence[AdapterInfo]) -> str:
    """What paying by rank saves, counted on these adapters."""
    pages = [num_rank_pages(info.rank) for info in adapters]
    return (
        f"{len(pages)} adapters take {sum(pages)} pages of 8 rank rows; padded to the largest rank "
        f"they would take {len(pages) * max(pages)}."
    )


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for word in words:
        table.add_column(word, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
