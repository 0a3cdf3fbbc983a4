"""What looks at a cluster come to."""

from benchmarks.drive.watch import Watch


def test_a_copy_counts_as_moved_when_it_appears():
    watch = Watch(looks=[{"h0": {"a": 10}}, {"h0": {"a": 10}, "h1": {"a": 10, "b": 4}}, {"h1": {"b": 4}}])
    assert watch.appeared == [10, 4]


def test_bytes_held_are_the_mean_over_the_looks():
    watch = Watch(looks=[{"h0": {"a": 10}}, {"h0": {"a": 10, "b": 4}}, {}])
    assert watch.hosts([])["h0"].mean_held_bytes == 8.0
