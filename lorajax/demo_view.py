"""What `lorajax demo` shows. Owns: phases, answers side by side, the burst's table, the closing tables.
Does not: ask or start anything.
"""

from collections.abc import Mapping, Sequence
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
from lorajax.demo_burst import Board, Row
from lorajax.spec import Level, num_rank_pages

_LANE_COLUMNS = 38
_COLORS = ("white", "cyan", "green", "yellow", "magenta", "blue")
_BAR_COLUMNS = 12
_PLAIN_EVERY_S = 3
_WORD_OF = {Level.STORE: "store", Level.HOST: "memory", Level.DEVICE: "device"}


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

    def phase(self, text: str, who: str = "") -> None:
        """What is being done now, by one of several or by us."""

    def lanes(self, lanes: Sequence[Lane]) -> None:
        """Show these answers from now on, as they grow."""

    def finished(self, lane: Lane) -> None:
        """One answer is whole."""

    def board(self, board: Board) -> None:
        """Show the burst, which now stands like this."""


class PlainView:
    """For logs and pipes: a line per phase, and each answer once it is whole."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._last_s = -float(_PLAIN_EVERY_S)

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to clean."""

    def phase(self, text: str, who: str = "") -> None:
        """One line."""
        self._console.print(f"… {who}: {text}" if who else f"… {text}", markup=False)

    def lanes(self, lanes: Sequence[Lane]) -> None:
        """One line; the answers follow as they finish."""
        self.phase(f"asking {len(lanes)} questions at once: {', '.join(lane.title for lane in lanes)}")

    def finished(self, lane: Lane) -> None:
        """Who was asked, what was asked, what was answered."""
        self._console.print(f"\n[{lane.title}] {lane.prompt}\n{lane.text.strip()}", markup=False)

    def board(self, board: Board) -> None:
        """A line every few seconds."""
        if board.elapsed_s - self._last_s >= _PLAIN_EVERY_S:
            self._last_s = board.elapsed_s
            self._console.print(board_line(board), markup=False)


class LiveView:
    """For a terminal: a spinner with the phases, below it what moves: the answers as they grow, then the burst."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._spinner = Spinner("dots", "starting")
        self._phase_of: dict[str, str] = {}
        self._lanes: Sequence[Lane] = ()
        self._board: Board | None = None
        self._live = Live(get_renderable=self._frame, console=console, transient=True, refresh_per_second=10)

    def __enter__(self) -> Self:
        """Start refreshing."""
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Replace the moving picture by a still one, which no terminal height cuts."""
        self._live.stop()
        self._keep()

    def phase(self, text: str, who: str = "") -> None:
        """Beside the spinner, where everybody's last word stands; ours ends those of the others."""
        self._phase_of = self._phase_of | {who: text} if who else {"": text}
        self._spinner.update(text=Text("\n".join(f"{who}: {what}" if who else what for who, what in self._said())))

    def lanes(self, lanes: Sequence[Lane]) -> None:
        """Panels from the next refresh on."""
        self._lanes = lanes

    def finished(self, lane: Lane) -> None:
        """Its panel says so by itself."""

    def board(self, board: Board) -> None:
        """A table from the next refresh on; the last one of each favourite stays."""
        if self._board is None or self._board.favourite != board.favourite:
            self._keep()
        self._board = board

    def _said(self) -> list[tuple[str, str]]:
        return sorted(self._phase_of.items())

    def _keep(self) -> None:
        """Let what moves stand still, above what comes next."""
        if picture := self._picture():
            self._console.print(picture)
        self._lanes, self._board = (), None

    def _picture(self) -> RenderableType | None:
        if self._board is not None:
            return Group("", board_table(self._board))
        return side_by_side(self._lanes, self._console.width) if self._lanes else None

    def _frame(self) -> RenderableType:
        picture = self._picture()
        return Group(self._spinner, picture) if picture else self._spinner


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
        where = _where(dict(info.level_of))
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


def board_table(board: Board) -> Table:
    """The burst: what each adapter is asked for, where its traffic goes, where its copies are."""
    hosts = _hosts(board)
    table = _table(_headline(board), ("adapter", "demand"), ("rank", "tokens/s", *hosts))
    table.add_column("copies in", overflow="fold")
    most = max((row.tokens_per_s for row in board.rows), default=0.0) or 1.0
    for row in board.rows:
        bar = Text("█" * round(_BAR_COLUMNS * row.tokens_per_s / most), "cyan")
        shares = (f"{100 * row.share_of[host]:.0f} %" if host in row.share_of else "-" for host in hosts)
        table.add_row(row.name, bar, str(row.rank), f"{row.tokens_per_s:.0f}", *shares, _where(row.level_of))
    table.columns[1].min_width = _BAR_COLUMNS
    table.caption, table.caption_justify = _moved(board), "left"
    return table


def board_line(board: Board) -> str:
    """The burst in one line."""
    rows = "; ".join(_row_words(row) for row in board.rows if row.tokens_per_s >= 1)
    return f"… {_headline(board)}: {rows or 'no answer yet'}; {_moved(board)}"


def board_summary(board: Board) -> str:
    """What came of the whole burst."""
    return (
        f"The burst: {board.num_tokens} tokens in {board.elapsed_s:.0f} s, {board.tokens_per_s:.0f} tokens/s; "
        f"median first token {1000 * board.first_token_s:.0f} ms; {_moved(board)}."
    )


def _headline(board: Board) -> str:
    return f"{min(board.elapsed_s, board.span_s):.0f} of {board.span_s:.0f} s, mostly {board.favourite}"


def _moved(board: Board) -> str:
    return f"{board.num_rounds} rounds, {board.num_moves} moves, {format_bytes(board.bytes_moved)} moved"


def _row_words(row: Row) -> str:
    shares = ", ".join(f"{100 * share:.0f} % {host}" for host, share in sorted(row.share_of.items()))
    return f"{row.name} {row.tokens_per_s:.0f}/s ({shares})"


def _hosts(board: Board) -> list[str]:
    return sorted({host for row in board.rows for host in (*row.share_of, *row.level_of)})


def _where(level_of: Mapping[str, Level]) -> str:
    return ", ".join(f"{host} ({_WORD_OF[level]})" for host, level in sorted(level_of.items())) or "store"


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for word in words:
        table.add_column(word, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
