"""What looks at a cluster come to."""

from benchmarks.drive.records import Ending
from benchmarks.drive.watch import Watch
from benchmarks.outcomes.records import Outcome


def test_a_copy_counts_as_moved_when_it_appears():
    watch = Watch(looks=[{"h0": {"a": 10}}, {"h0": {"a": 10}, "h1": {"a": 10, "b": 4}}, {"h1": {"b": 4}}])
    assert watch.appeared == [10, 4]


def test_bytes_held_are_the_mean_over_the_looks():
    watch = Watch(looks=[{"h0": {"a": 10}}, {"h0": {"a": 10, "b": 4}}, {}])
    assert watch.hosts([], [])["h0"].mean_held_bytes == 8.0


def test_waits_for_adapters_and_tokens_are_summed_by_host():
    one = Outcome(due_s=0.0, adapter="a", rank=8, prompt_tokens=10, output_tokens=4, sent_s=0.0)
    endings = [
        Ending(prompt_tokens=10, output_tokens=4, host="h0"),
        Ending(prompt_tokens=10, output_tokens=4, host="h0", adapter_wait_s=0.5),
        None,
    ]
    use = Watch().hosts([one, one, one], endings)["h0"]
    assert (use.tokens, use.device_hits, use.host_hits, use.stall_s) == (28, 1, 1, 0.5)
