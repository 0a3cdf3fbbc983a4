"""The demo without a model: its lanes, its two views, and a child process that plays the server."""

import asyncio
import io
import os
import signal
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.records import AdapterInfo, Piece, Question, Summary
from lorajax.bundled import ExampleAdapter, example_adapters
from lorajax.demo import plan_lanes
from lorajax.demo_server import ServerDied, serving
from lorajax.demo_view import (
    Lane,
    LiveView,
    PlainView,
    adapter_table,
    page_sentence,
    request_table,
    side_by_side,
)
from lorajax.spec import Level, Sampling, Timing

PIRATE = ExampleAdapter(name="pirate", folder="p", targets=("q_proj",), question="Where?")
SHOUT = replace(PIRATE, name="shout", question="Why?")
HAIKU = replace(PIRATE, name="haiku")
INFO = AdapterInfo(
    name="pirate", version="ab" * 32, rank=12, num_bytes=3 * 2**20, is_pinned=False, level_of=(("here", Level.DEVICE),)
)
END = Summary(
    finish_reason="stop",
    num_prompt_tokens=5,
    num_completion_tokens=21,
    timing=Timing(queue_s=0.01, adapter_wait_s=0.02, prefill_s=0.1, first_token_s=0.13, total_s=2.13),
    adapter_versions=(),
    host="here",
    request_id="r",
)


def lane(title="pirate", texts=("Arr", ", mate"), summary=END):
    made = Lane(title=title, prompt="Where?", question=Question(prompt="Where?", sampling=Sampling(max_tokens=8)))
    for text in texts:
        made.add(Piece(id=1, text=text))
    if summary:
        made.add(summary)
    return made


def shown(thing, width=100):
    out = Console(file=io.StringIO(), width=width, highlight=False)
    out.print(thing)
    return out.file.getvalue()


def test_base_every_adapter_and_one_mixture_are_asked():
    titles = [made.title for made in plan_lanes((PIRATE, SHOUT, HAIKU), max_tokens=8)]
    assert titles == ["base", "pirate", "shout", "haiku", "0.6 pirate + 0.4 shout"]


def test_one_adapter_alone_gets_no_mixture():
    assert [made.title for made in plan_lanes((PIRATE,), max_tokens=8)] == ["base", "pirate"]


def test_each_adapter_is_asked_its_own_question():
    assert [made.prompt for made in plan_lanes((PIRATE, SHOUT), max_tokens=8)] == ["Where?", "Where?", "Why?", "Where?"]


def test_a_checkout_without_adapters_has_no_examples(tmp_path):
    assert example_adapters(tmp_path) == ()


def test_targets_are_in_our_order(tmp_path):
    folder = tmp_path / "adapters" / "pirate"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"target_modules": ["v_proj", "q_proj"]}')
    (tmp_path / "prompts.json").write_text('{"pirate": ["Where?", "Why?"]}')
    (example,) = example_adapters(tmp_path)
    assert (example.targets, example.question) == (("q_proj", "v_proj"), "Where?")


def test_plain_view_is_a_line_per_phase_and_an_answer_per_lane():
    out = Console(file=io.StringIO(), width=100, highlight=False)
    with PlainView(out) as view:
        view.phase("compiling step 3/12")
        view.lanes([lane()])
        view.finished(lane())
    expected = "… compiling step 3/12\n… asking 1 questions at once: pirate\n\n[pirate] Where?\nArr, mate\n"
    assert out.file.getvalue() == expected


def test_plain_view_prints_markup_as_it_is():
    out = Console(file=io.StringIO(), width=100, highlight=False)
    with PlainView(out) as view:
        view.finished(lane(texts=("[bold]x[/] [1]",)))
    assert "[bold]x[/] [1]" in out.file.getvalue()


def test_live_view_leaves_whole_answers_behind():
    out = Console(file=io.StringIO(), width=100, height=4, force_terminal=True)
    with LiveView(out) as view:
        view.phase("asking")
        view.lanes([lane(title=f"lane {number}") for number in range(9)])
    last_picture = out.file.getvalue()[-6000:]
    assert all(f"lane {number}" in last_picture for number in range(9))


def test_growing_answer_shows_a_cursor_and_a_whole_one_does_not():
    assert ("▌" in shown(side_by_side([lane(summary=None)], 100)), "▌" in shown(side_by_side([lane()], 100))) == (
        True,
        False,
    )


@pytest.mark.parametrize(("width", "num_rows"), [(30, 3), (80, 2), (120, 1)])
def test_panels_stand_beside_each_other_as_far_as_they_fit(width, num_rows):
    tops = [line for line in shown(side_by_side([lane()] * 3, width), width).splitlines() if "╭" in line]
    assert len(tops) == num_rows


def test_adapter_table_tells_rank_pages_size_targets_and_place():
    row = shown(adapter_table([INFO], {"pirate": ("q_proj", "v_proj")})).splitlines()[-1]
    assert row.split() == ["pirate", "q", "v", "device", "of", "here", "12", "2", "3", "MiB"]


def test_request_table_tells_tokens_speed_and_waits():
    row = shown(request_table([lane()])).splitlines()[-1]
    assert row.split() == ["pirate", "21", "130", "ms", "10.0", "10", "ms", "20", "ms", "100", "ms"]


def test_page_sentence_counts_what_padding_would_take():
    infos = [replace(INFO, rank=rank) for rank in (4, 8, 32)]
    assert page_sentence(infos) == (
        "3 adapters take 6 pages of 8 rank rows; padded to the largest rank they would take 12."
    )


GOOD_SERVER = """
import signal, sys
print("INFO PROGRESS loading weights", file=sys.stderr, flush=True)
print("READY grpc=127.0.0.1:7 model=tiny", flush=True)
signal.sigwait([signal.SIGTERM])
"""
BAD_SERVER = 'print("PROGRESS loading"); print("no memory left"); raise SystemExit(3)'


def serve(tmp_path, code, action=lambda child: None):
    """What a server of this code said on its way, after `action(child)` while it was up."""
    phases = []

    async def go():
        blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n{code}"
        async with serving((sys.executable, "-c", blocked), tmp_path / "log", phases.append) as child:
            action(child)
        return child

    return asyncio.run(go()), phases


def test_server_is_ready_where_it_says_and_gone_afterwards(tmp_path):
    child, _ = serve(tmp_path, GOOD_SERVER)
    assert (child.target, child.process.poll()) == ("127.0.0.1:7", 0)


def test_progress_is_heard_before_ready(tmp_path):
    _, phases = serve(tmp_path, GOOD_SERVER)
    assert phases == ["loading weights"]


def test_a_server_that_dies_is_told_with_its_last_words(tmp_path):
    with pytest.raises(ServerDied, match="ended with exit code 3 before it was ready") as caught:
        serve(tmp_path, BAD_SERVER)
    assert caught.value.last_words == ("no memory left",)


def test_a_kept_server_outlives_the_demo(tmp_path):
    def keep(child):
        child.keep = True

    child, _ = serve(tmp_path, GOOD_SERVER, keep)
    assert child.process.poll() is None
    child.process.terminate()
    assert child.process.wait(10) == 0


def test_an_interrupted_demo_leaves_no_server_behind(tmp_path):
    children = []

    def interrupt(child):
        children.append(child)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        serve(tmp_path, GOOD_SERVER, interrupt)
    assert children[0].process.poll() is not None
