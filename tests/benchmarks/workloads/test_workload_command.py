"""The flags compose a workload, and the command says what it is."""

import pytest
from click.testing import CliRunner

from benchmarks.commands_workload import workload
from benchmarks.workloads.figures import figures
from benchmarks.workloads.options import Flags, setting_of
from benchmarks.workloads.records import Arrival, Workload

TRACE = "t_s,prompt_tokens,output_tokens\n0,10,1\n1,20,2\n4,30,3\n"
ORDER = "adapter\nb\na\n\nb\n"


@pytest.fixture
def trace(tmp_path):
    (tmp_path / "trace.csv").write_text(TRACE)
    return tmp_path / "trace.csv"


@pytest.fixture
def order(tmp_path):
    (tmp_path / "order.csv").write_text(ORDER.replace("\n\n", '\n""\n'))
    return tmp_path / "order.csv"


def run(*args):
    return CliRunner().invoke(workload, [str(arg) for arg in args])


def test_trace_is_played_as_it_is_with_popularity_from_another_file(trace, order):
    made = setting_of(Flags(trace=trace, popularity=str(order), ranks="64"))()
    assert [(one.at_s, one.prompt_tokens, one.output_tokens, one.adapter) for one in made.arrivals] == [
        (0, 10, 1, "b"),
        (1, 20, 2, "a"),
        (4, 30, 3, "b"),
    ]
    assert made.ranks == {"b": 64, "a": 64}


def test_trace_is_played_faster_and_cut(trace):
    made = setting_of(Flags(trace=trace, compress=2.0, duration_s=1.0))()
    assert [one.at_s for one in made.arrivals] == [0, 0.5]


def test_trace_is_played_at_another_rate(trace):
    made = setting_of(Flags(trace=trace, rate=1.0))()
    assert len(made.arrivals) == 6
    assert [one.at_s for one in made.arrivals[:4]] == [0, 0.5, 1, 2.5]


def test_popular_adapters_of_a_trace_are_kept_and_requests_for_others_left_out(tmp_path):
    (tmp_path / "t.csv").write_text("t_s,adapter,tenant\n0,a,x\n1,b,y\n2,,z\n3,b,y\n")
    made = setting_of(Flags(trace=tmp_path / "t.csv", adapters=1))()
    assert [(one.at_s, one.adapter, one.tenant) for one in made.arrivals] == [
        (1, "b", "y"),
        (2, "", "z"),
        (3, "b", "y"),
    ]


def test_lengths_come_from_another_file_and_fit_the_context(trace):
    flags = Flags(rate=3.0, duration_s=1.0, lengths=str(trace), length_scale=10.0, context_tokens=150)
    made = setting_of(flags)()
    assert [(one.prompt_tokens, one.output_tokens) for one in made.arrivals] == [(100, 10), (130, 20), (120, 30)]


def test_columns_are_said_of_the_file_that_has_them(trace, tmp_path):
    (tmp_path / "who.csv").write_text("model\nm\n")
    flags = Flags(trace=trace, popularity=str(tmp_path / "who.csv"), columns={"adapter": "model"})
    assert {one.adapter for one in setting_of(flags)().arrivals} == {"m"}


def test_workload_that_the_command_wrote_is_played_again_to_the_bit(tmp_path):
    out = tmp_path / "mine.jsonl.gz"
    assert run("--workload", "cold-crowd", "--rate", 3, "--duration-s", 20, "--seed", 5, "--out", out).exit_code == 0
    first = setting_of(Flags(workload="cold-crowd", rate=3.0, duration_s=20.0))(seed=5)
    again = setting_of(Flags(trace=out))(seed=7)
    assert (again.arrivals, again.ranks) == (first.arrivals, first.ranks)


def test_figures_are_those_of_a_workload_counted_by_hand():
    arrivals = (Arrival(0.0, 10, 1, "a"), Arrival(1.0, 20, 2, "a"), Arrival(4.0, 30, 3), Arrival(5.0, 40, 4, "b"))
    found = figures(Workload(name="w", arrivals=arrivals, ranks={"a": 8, "b": 64, "c": 64}, facts={"duration_s": 8.0}))
    assert found.requests_per_s == 0.5
    assert found.gaps_cv == pytest.approx((8 / 9) ** 0.5 / (5 / 3))
    assert (found.prompt_mean, found.prompt_quantiles[1]) == (25, 25)
    assert (found.adapters_asked, found.adapters, found.requests_of) == (2, 3, (("a", 2), ("b", 1)))
    assert found.tokens_of_rank == {0: 33, 8: 33, 64: 44}


def test_command_prints_requests_lengths_popular_adapters_and_tokens_per_rank(trace, order):
    lines = run("--trace", trace, "--popularity", order, "--ranks", "64").output.splitlines()
    assert "requests      3 over 4.0 s, 0.500 requests/s" in lines
    assert "  prompt            20      12      20      28      30" in lines
    assert "  b                        rank  64   66.7%" in lines
    assert "  rank 64                2              66  100.0%" in lines


def test_pace_plays_a_part_of_the_eight_hours(tmp_path):
    """A day is three times as busy at noon as at its ends; a hundredth of it is as busy all the time."""
    busier = []
    for pace in ((), ("--pace", 1)):
        out = tmp_path / f"{len(pace)}.jsonl"
        assert run("--workload", "day", "--rate", 10, "--duration-s", 288, *pace, "--out", out).exit_code == 0
        at_s = [one.at_s for one in setting_of(Flags(trace=out))().arrivals]
        busier.append(sum(96 <= one < 192 for one in at_s) / sum(one < 96 for one in at_s))
    assert busier[0] > 1.5
    assert busier[1] == pytest.approx(1, abs=0.2)


def test_pace_leaves_the_times_of_a_trace_as_they_are(trace):
    paced, plain = (setting_of(Flags(trace=trace, popularity="shifting", pace=pace))() for pace in (1.0, None))
    assert [one.at_s for one in paced.arrivals] == [one.at_s for one in plain.arrivals]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--compress", 2), "--compress is for the times of a trace; add --trace PATH"),
        (("--popularity", "fame"), "--popularity fame is no file and no name; write a path, or one of uniform"),
        (("--lengths", "long"), "--lengths long is no file and no name; write a path, or one of conv, code"),
        (("--ranks", "many"), "--ranks 'many' is no mix; write mixed"),
        (
            ("--popularity", "TRACE"),
            "--popularity trace.csv has no column of adapters; name it with --columns adapter=",
        ),
        (("--lengths", "ORDER"), "order.csv has no columns of prompt and answer tokens; name them with --columns"),
        (("--popularity", "ORDER", "--adapters", 3), "--adapters 3: order.csv has 2; write at most that"),
        (("--columns", "size=x"), "'size' is no KIND=COLUMN; kinds are time"),
    ],
)
def test_mistake_names_its_flag(trace, order, args, message):
    result = run(*({"TRACE": trace, "ORDER": order}.get(arg, arg) for arg in args))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_trace_that_asks_for_no_adapter_is_asked_about(tmp_path):
    (trace := tmp_path / "base.csv").write_text("t_s,prompt_tokens,output_tokens,adapter\n0,80,9,\n1,80,9,\n")
    result = run("--trace", trace)
    assert result.exit_code == 2
    assert "--popularity is missing: base.csv asks the base model alone" in " ".join(result.output.split())
    assert run("--trace", trace, "--popularity", "zipf").exit_code == 0


def test_trace_with_prompts_alone_is_asked_about(tmp_path):
    (trace := tmp_path / "t.csv").write_text("t_s,prompt_tokens,adapter\n0,8000,a\n1,8000,a\n")
    with pytest.raises(ValueError, match="has prompt tokens and no output tokens; name the column"):
        setting_of(Flags(trace=trace))
    assert setting_of(Flags(trace=trace, lengths="conv"))().arrivals
