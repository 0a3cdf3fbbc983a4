"""The configuration of a local cluster, and who runs on which core."""

import os
from pathlib import Path

from benchmarks.baselines.systems import SYSTEMS
from benchmarks.drive.bed import Bed, on_cores
from cluster import cluster_config, operating_points


def bed(folder):
    engine = {"kv_bytes": "32MiB", "adapter_bytes": "10MiB", "max_sequences": 8, "max_batch_tokens": 256}
    return Bed.tiny(folder, {"a": 8, "b": 16}, engine, ttft_p95_s=0.5)


def test_the_file_of_a_cluster_says_its_system_hosts_adapters_and_target(tmp_path):
    found = cluster_config.read(bed(tmp_path).write("one", SYSTEMS["contiguous"]), Path())
    assert (found.policy, found.routing) == (SYSTEMS["contiguous"].policy, SYSTEMS["contiguous"].routing)
    assert (found.replicas, [name for name, _ in found.preload], found.ttft_p95_s) == (3, ["a", "b"], 0.5)


def test_operating_points_are_named_where_there_are_any(tmp_path):
    operating_points.write(points := tmp_path / "points.json", operating_points.DEFAULT)
    assert cluster_config.read(bed(tmp_path).write("one", SYSTEMS["ours"], points), Path()).operating_points == points


def test_clusters_of_one_bed_share_their_adapters(tmp_path):
    one = bed(tmp_path)
    configs = [cluster_config.read(one.write(name, SYSTEMS["ours"]), Path()) for name in ("one", "two")]
    assert configs[0].preload == configs[1].preload


def test_cores_are_given_back(tmp_path):
    ours = os.sched_getaffinity(0)
    with on_cores({min(ours)}):
        assert os.sched_getaffinity(0) == {min(ours)}
    assert os.sched_getaffinity(0) == ours
