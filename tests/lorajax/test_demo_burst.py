"""The demo's traffic: who is asked when, what is counted, how it is shown, and one burst against a scripted server."""

import asyncio
import io
from dataclasses import replace

import grpc
import pytest
from rich.console import Console

from cluster.client import Client, ClientError
from cluster.records import AdapterInfo, Placement
from lorajax.demo_burst import Board, Record, Row, Traffic, burst
from lorajax.demo_view import LiveView, PlainView, board_line, board_summary, board_table
from lorajax.spec import Level
from tests.cluster.scripted_server import FINAL, answer, fail, serving, tokens

TRAFFIC = Traffic(
    questions={"haiku": "Why?", "pirate": "Where?", "shout": "What?"}, favourites=("pirate", "haiku"), span_s=10.0
)
PIRATE = AdapterInfo(
    name="pirate", version="ab" * 32, rank=8, num_bytes=2**20, is_pinned=False, level_of=(("host-0", Level.HOST),)
)
EVERYWHERE = replace(PIRATE, level_of=(("host-0", Level.DEVICE), ("host-1", Level.HOST)))
BOARD = Board(
    elapsed_s=4.0,
    span_s=10.0,
    favourite="pirate",
    rows=(
        Row(name="haiku", rank=32, tokens_per_s=0.2, share_of={"host-0": 1.0}, level_of={"host-0": Level.DEVICE}),
        Row(
            name="pirate",
            rank=8,
            tokens_per_s=90.0,
            share_of={"host-0": 0.25, "host-1": 0.75},
            level_of={"host-0": Level.DEVICE, "host-1": Level.HOST},
        ),
    ),
    num_tokens=400,
    first_token_s=0.2,
    num_rounds=2,
    num_moves=3,
    bytes_moved=3 * 2**20,
)


def record(traffic=TRAFFIC):
    return Record(traffic=traffic)


def shown(action):
    out = Console(file=io.StringIO(), width=120, highlight=False)
    action(out)
    return out.file.getvalue()


@pytest.mark.parametrize(("at_s", "name"), [(0.0, "pirate"), (4.9, "pirate"), (5.0, "haiku"), (10.0, "haiku")])
def test_each_favourite_has_its_part_of_the_time(at_s, name):
    assert TRAFFIC.favourite(at_s) == name


def test_the_favourite_gets_most_requests():
    weights = TRAFFIC.weights(7.0)
    assert weights["haiku"] > 4 * max(weights["pirate"], weights["shout"])


@pytest.mark.parametrize("names", [("pirate",), ("pirate", "haiku"), ("pirate", "haiku", "shout", "json")])
def test_all_requests_go_to_somebody(names):
    traffic = Traffic(questions=dict.fromkeys(names, "?"), favourites=names[:1])
    assert sum(traffic.weights(3.0).values()) == pytest.approx(1)


def test_tokens_of_late_make_the_demand():
    seen = record()
    seen.look([PIRATE])
    for at_s in (1.0, 3.5, 5.0):
        seen.token("pirate", at_s)
    assert seen.board(6.0).rows[0].tokens_per_s == pytest.approx(2 / 3)


def test_the_first_look_moves_nothing():
    seen = record()
    seen.look([EVERYWHERE])
    assert (seen.board(1.0).num_moves, seen.board(1.0).bytes_moved) == (0, 0)


def test_a_copy_that_appears_is_a_move_of_its_bytes():
    seen = record()
    seen.look([PIRATE])
    seen.look([EVERYWHERE])
    assert (seen.board(1.0).num_moves, seen.board(1.0).bytes_moved) == (1, 2**20)


def test_a_copy_that_goes_is_a_move_without_bytes():
    seen = record()
    seen.look([EVERYWHERE])
    seen.look([PIRATE])
    assert (seen.board(1.0).num_moves, seen.board(1.0).bytes_moved) == (1, 0)


def test_a_copy_that_changes_its_level_has_not_moved():
    seen = record()
    seen.look([PIRATE])
    seen.look([replace(PIRATE, level_of=(("host-0", Level.DEVICE),))])
    assert seen.board(1.0).num_moves == 0


def test_the_newest_placement_counts():
    seen = record()
    seen.look([PIRATE])
    seen.place(Placement(round=1, shares=(("pirate", "host-0", 1.0),)))
    seen.place(Placement(round=2, shares=(("pirate", "host-1", 1.0), ("haiku", "host-0", 1.0))))
    assert (seen.board(1.0).num_rounds, seen.board(1.0).rows[0].share_of) == (2, {"host-1": 1.0})


def test_the_wait_for_first_tokens_is_the_median():
    seen = record()
    for wait_s in (0.1, None, 0.2, None, 9.0):
        seen.token("pirate", 1.0, wait_s)
    assert seen.board(2.0).first_token_s == 0.2


def test_board_table_tells_demand_shares_and_copies():
    row = " ".join(shown(lambda out: out.print(board_table(BOARD))).splitlines()[-2].split())
    assert row == "pirate ████████████ 8 90 25 % 75 % host-0 (device), host-1 (memory)"


def test_board_table_says_what_moved():
    assert shown(lambda out: out.print(board_table(BOARD))).splitlines()[-1].strip() == (
        "2 rounds, 3 moves, 3 MiB moved"
    )


def test_board_line_leaves_out_who_is_not_asked():
    assert board_line(BOARD) == (
        "… 4 of 10 s, mostly pirate: pirate 90/s (25 % host-0, 75 % host-1); 2 rounds, 3 moves, 3 MiB moved"
    )


def test_summary_tells_speed_wait_and_moves():
    assert board_summary(BOARD) == (
        "The burst: 400 tokens in 4 s, 100 tokens/s; median first token 200 ms; 2 rounds, 3 moves, 3 MiB moved."
    )


def test_plain_view_says_every_few_seconds_how_things_stand():
    def show(out):
        with PlainView(out) as view:
            for elapsed_s in (0.0, 1.0, 2.0, 3.5, 4.0):
                view.board(replace(BOARD, elapsed_s=elapsed_s))

    assert [line[:6] for line in shown(show).splitlines()] == ["… 0 of", "… 4 of"]


def test_live_view_leaves_a_table_of_each_favourite_behind():
    out = Console(file=io.StringIO(), width=120, height=20, force_terminal=True)
    with LiveView(out) as view:
        for favourite in ("pirate", "pirate", "haiku"):
            view.board(replace(BOARD, favourite=favourite))
    assert ("mostly pirate" in out.file.getvalue(), "mostly haiku" in out.file.getvalue()) == (True, True)


def run(target, traffic):
    boards = []

    async def go():
        async with Client(target) as client:
            return await burst(client, record(traffic), boards.append)

    return asyncio.run(go()), boards


SHORT = replace(TRAFFIC, questions={"pirate": "Where?"}, favourites=("pirate",), span_s=0.05, num_streams=2)


def test_a_burst_asks_until_its_time_is_over():
    with serving(answer(tokens("a", "b"), FINAL)) as server:
        last, _ = run(server.target, SHORT)
    assert (last.elapsed_s >= SHORT.span_s, last.num_tokens == 2 * len(server.requests) > 2) == (True, True)


def test_a_burst_shows_how_things_stand():
    with serving(answer(tokens("a"), FINAL)) as server:
        _, boards = run(server.target, SHORT)
    assert boards[0].rows[0].level_of == {"here": Level.DEVICE}


def test_a_request_that_fails_ends_the_burst_with_its_words():
    with (
        serving(fail(grpc.StatusCode.INVALID_ARGUMENT, "no such thing")) as server,
        pytest.raises(ClientError, match="no such thing"),
    ):
        run(server.target, SHORT)
