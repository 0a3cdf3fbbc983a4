"""The text of a run: the lines that people search for, and the tables."""

from dataclasses import replace

from benchmarks.outcomes import block
from benchmarks.outcomes.statistics import Slo, summary
from tests.benchmarks.outcomes.made import HOSTS, OUTCOMES, SLO, run

LINES = block.text(summary(run(), SLO)).splitlines()


def _value(label: str) -> str:
    return next(line[len(label) :].strip() for line in LINES if line.startswith(label))


def test_block_has_the_lines_of_vllm_under_their_names():
    assert LINES[0] == "============ Serving Benchmark Result ============"
    assert "---------------Time to First Token----------------" in LINES
    assert "-----Time per Output Token (excl. 1st token)------" in LINES
    assert {
        label: _value(label)
        for label in (
            "Successful requests:",
            "Failed requests:",
            "Benchmark duration (s):",
            "Total input tokens:",
            "Total generated tokens:",
            "Request throughput (req/s):",
            "Request goodput (req/s):",
            "Output token throughput (tok/s):",
            "Total token throughput (tok/s):",
            "Mean TTFT (ms):",
            "Median TTFT (ms):",
            "P99 TTFT (ms):",
            "Mean TPOT (ms):",
            "Mean ITL (ms):",
            "Mean E2EL (ms):",
        )
    } == {
        "Successful requests:": "3",
        "Failed requests:": "1",
        "Benchmark duration (s):": "10.00",
        "Total input tokens:": "60",
        "Total generated tokens:": "9",
        "Request throughput (req/s):": "0.30",
        "Request goodput (req/s):": "0.20",
        "Output token throughput (tok/s):": "0.90",
        "Total token throughput (tok/s):": "6.90",
        "Mean TTFT (ms):": "2000.00",
        "Median TTFT (ms):": "2000.00",
        "P99 TTFT (ms):": "2980.00",
        "Mean TPOT (ms):": "375.00",
        "Mean ITL (ms):": "666.67",
        "Mean E2EL (ms):": "2666.67",
    }


def test_lines_are_aligned_as_vllms():
    assert "Total generated tokens:                  9" in LINES


def test_a_driver_that_was_late_is_told_of():
    assert _value("Requests sent over 10 ms late:") == "1"
    assert "Too many: give the driver more cores, or raise --max-concurrency" in LINES


def test_punctual_sends_and_an_empty_objective_say_nothing():
    punctual = tuple(replace(one, sent_s=one.due_s) for one in OUTCOMES)
    text = block.text(summary(run(outcomes=punctual), Slo()))
    assert "late" not in text
    assert "goodput" not in text


def test_from_outside_a_wait_does_not_tell_where_the_adapter_was():
    hosts = {name: replace(use, busy_s=0.0) for name, use in HOSTS.items()}
    text = block.text(summary(replace(run(), hosts=hosts), SLO))
    assert "Adapters waited for (%):                 50.00" in text
    assert "in host memory" not in text


def test_tables_have_a_row_for_each_rank_and_each_adapter():
    rows = [line.split("  ")[0] for line in block.tables(summary(run(), SLO)).splitlines()]
    assert rows == ["rank", "8", "128", "", "adapter", "large", "small"]


def test_tables_leave_out_the_least_busy_of_many_adapters():
    outcomes = tuple(replace(OUTCOMES[0], adapter=f"{number % 25:02}") for number in range(45))
    lines = block.tables(summary(run(outcomes=outcomes), SLO)).splitlines()
    assert lines[-1] == "… and 5 more with fewer requests"
    assert lines[-2].startswith("19")


def test_sizes_are_in_the_unit_that_suits_them():
    assert list(map(block.size, (0, 512, 1536, 3 * 2**30))) == ["0 B", "512 B", "1.5 KiB", "3.0 GiB"]
