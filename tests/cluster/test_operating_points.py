"""Operating points: costs between the measured ranks, checks, and the file."""

from pathlib import Path

import pytest

from cluster import operating_points
from cluster.operating_points import DEFAULT, OperatingPoints

POINTS = OperatingPoints(tokens_per_s={0: 1000.0, 8: 500.0, 128: 100.0}, mixing=0.25, fetch_bytes_per_s=1e9)


@pytest.mark.parametrize(
    ("rank", "cost_ms"),
    [(0, 1.0), (4, 1.5), (8, 2.0), (68, 6.0), (128, 10.0), (248, 18.0)],
    ids=lambda value: str(value),
)
def test_cost_is_linear_between_and_beyond_the_measured_ranks(rank, cost_ms):
    assert POINTS.cost_s(rank) == pytest.approx(cost_ms / 1000)


def test_larger_rank_than_measured_never_costs_less():
    points = OperatingPoints(tokens_per_s={8: 100.0, 16: 110.0}, mixing=0.0, fetch_bytes_per_s=1.0)
    assert points.cost_s(64) == 1 / 110


def test_one_measured_rank_stands_for_all():
    points = OperatingPoints(tokens_per_s={8: 100.0}, mixing=0.0, fetch_bytes_per_s=1.0)
    assert {points.cost_s(rank) for rank in (0, 8, 256)} == {0.01}


def test_file_gives_back_what_was_written(tmp_path: Path):
    operating_points.write(tmp_path / "points.json", POINTS)
    assert operating_points.read(tmp_path / "points.json") == POINTS


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"tokens_per_s": {"8": 0}, "mixing": 0, "fetch_bytes_per_s": 1}', '{"tokens_per_s": {"8": 1}}'],
)
def test_file_without_points_is_refused_by_name(tmp_path: Path, text):
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"points\.json holds no operating points .* write it with `lorajax profile`"):
        operating_points.read(path)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tokens_per_s": {}}, "it needs at least one"),
        ({"tokens_per_s": {-1: 5.0}}, "none below 0"),
        ({"tokens_per_s": {8: float("nan")}}, "tokens_per_s of rank 8 is nan"),
        ({"mixing": 1.5}, "mixing is 1.5"),
        ({"fetch_bytes_per_s": 0.0}, "fetch_bytes_per_s is 0.0"),
    ],
)
def test_what_cannot_have_been_measured_is_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        OperatingPoints(**({"tokens_per_s": {8: 1.0}, "mixing": 0.0, "fetch_bytes_per_s": 1.0} | fields))


def test_default_costs_more_for_larger_ranks():
    assert DEFAULT.cost_s(0) < DEFAULT.cost_s(8) < DEFAULT.cost_s(128)
