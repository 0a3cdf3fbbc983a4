"""The demo without a model: its lanes, its two views, and a child process that plays the cluster."""

import asyncio
import io
import os
import signal
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.cluster_config import read
from cluster.records import AdapterInfo, Piece, Question, Summary
from lorajax.bundled import ExampleAdapter, example_adapters
from lorajax.demo import plan_lanes, plan_traffic
from lorajax.demo_cluster import cluster_toml, command
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


def test_the_burst_asks_every_adapter_its_own_question():
    assert plan_traffic((PIRATE, SHOUT)).questions == {"pirate": "Where?", "shout": "Why?"}


def test_the_burst_favours_pirate_then_haiku():
    assert plan_traffic((HAIKU, PIRATE, SHOUT)).favourites == ("pirate", "haiku")


def test_the_burst_favours_whoever_there_is():
    assert plan_traffic((SHOUT,)).favourites == ("shout",)


def written(tmp_path, model="m.gguf", examples=(PIRATE, SHOUT), port=0):
    file = tmp_path / "cluster.toml"
    file.write_text(cluster_toml(model, examples, port), encoding="utf-8")
    return read(file, tmp_path)


def test_the_cluster_is_three_hosts_in_one_world(tmp_path):
    config = written(tmp_path)
    assert (config.replicas, config.transfer, config.state_dir) == (3, "collective", tmp_path / "state")


def test_the_cluster_has_every_example_before_ready(tmp_path):
    assert written(tmp_path).preload == (("pirate", tmp_path / "p"), ("shout", tmp_path / "p"))


def test_the_port_is_the_gateways(tmp_path):
    assert written(tmp_path, port=7000).gateway == "127.0.0.1:7000"


def test_a_path_with_quotes_and_umlauts_is_read_back_as_it_was(tmp_path):
    assert written(tmp_path, model='/ä "b" \\c/m.gguf').model.as_posix() == '/ä "b" \\c/m.gguf'


def test_the_cluster_is_started_by_launch(tmp_path):
    assert command(tmp_path / "x")[1:] == ("-m", "lorajax", "launch", "--config", str(tmp_path / "x"), "--local")


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
        view.phase("compiling step 3/12", "host-0")
        view.lanes([lane()])
        view.finished(lane())
    expected = "… host-0: compiling step 3/12\n… asking 1 questions at once: pirate\n\n[pirate] Where?\nArr, mate\n"
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


def test_live_view_shows_the_last_word_of_each_process():
    out = Console(file=io.StringIO(), width=100, height=8, force_terminal=True)
    with LiveView(out) as view:
        for who, what in (("host-0", "loading"), ("host-1", "waiting"), ("host-0", "compiling")):
            view.phase(what, who)
    last_picture = out.file.getvalue()[-400:]
    assert ("host-0: compiling" in last_picture, "host-1: waiting" in last_picture) == (True, True)


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
    assert row.split() == ["pirate", "q", "v", "here", "(device)", "12", "2", "3", "MiB"]


def test_request_table_tells_tokens_speed_and_waits():
    row = shown(request_table([lane()])).splitlines()[-1]
    assert row.split() == ["pirate", "21", "130", "ms", "10.0", "10", "ms", "20", "ms", "100", "ms"]


def test_page_sentence_counts_what_padding_would_take():
    infos = [replace(INFO, rank=rank) for rank in (4, 8, 32)]
    assert page_sentence(infos) == (
        "3 adapters take 6 pages of 8 rank rows; padded to the largest rank they would take 12."
    )


GOOD_CLUSTER = """
import signal, sys
print("host-1 | PROGRESS loading weights", file=sys.stderr, flush=True)
print("PROGRESS nearly there", file=sys.stderr, flush=True)
print("READY grpc=127.0.0.1:7 model=tiny", flush=True)
signal.sigwait([signal.SIGTERM])
"""
BAD_CLUSTER = 'print("PROGRESS loading"); print("no memory left"); raise SystemExit(3)'


def serve(tmp_path, code, action=lambda child: None):
    """What a cluster of this code said on its way, after `action(child)` while it was up."""
    phases = []

    def on_phase(what, who):
        phases.append((who, what))

    async def go():
        blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n{code}"
        async with serving((sys.executable, "-c", blocked), tmp_path / "log", on_phase) as child:
            action(child)
        return child

    return asyncio.run(go()), phases


def test_cluster_is_ready_where_it_says_and_gone_afterwards(tmp_path):
    child, _ = serve(tmp_path, GOOD_CLUSTER)
    assert (child.target, child.process.poll()) == ("127.0.0.1:7", 0)


def test_progress_is_heard_before_ready(tmp_path):
    _, phases = serve(tmp_path, GOOD_CLUSTER)
    assert phases == [("host-1", "loading weights"), ("", "nearly there")]


def test_a_cluster_that_dies_is_told_with_its_last_words(tmp_path):
    with pytest.raises(ServerDied, match="ended with exit code 3 before it was ready") as caught:
        serve(tmp_path, BAD_CLUSTER)
    assert caught.value.last_words == ("no memory left",)


def test_a_kept_cluster_outlives_the_demo(tmp_path):
    def keep(child):
        child.keep = True

    child, _ = serve(tmp_path, GOOD_CLUSTER, keep)
    assert child.process.poll() is None
    child.process.terminate()
    assert child.process.wait(10) == 0


def test_an_interrupted_demo_leaves_no_cluster_behind(tmp_path):
    children = []

    def interrupt(child):
        children.append(child)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        serve(tmp_path, GOOD_CLUSTER, interrupt)
    assert children[0].process.poll() is not None
