"""What `lorajax profile` refuses before it starts, and which adapters its streams use."""

import pytest

from cluster.config import ServeConfig
from cluster.profile import _num_versions, _Subject, add_versions, run
from cluster.profile_points import ProfileConfig, Slo
from lorajax.config import EngineConfig
from tests import tiny
from tests.fakes import EchoEngine, read_adapter, write_adapter


def config(model="base", ranks=(8, 128), adapter_bytes=2**20, max_sequences=16):
    engine = EngineConfig(
        kv_bytes=2**20, adapter_bytes=adapter_bytes, host_adapter_bytes=2**20, max_sequences=max_sequences
    )
    return ProfileConfig(serve=ServeConfig(model=str(model), engine=engine), slo=Slo(), ranks=ranks)


@pytest.mark.parametrize(
    ("num_pages", "max_sequences", "expected"),
    [(32, 16, 2), (63, 16, 2), (64, 16, 4), (1000, 16, 16), (1000, 5, 4), (1000, 1, 2)],
)
def test_as_many_adapters_of_a_rank_as_fit_and_can_run_together(num_pages, max_sequences, expected):
    assert _num_versions(config(max_sequences=max_sequences), num_pages) == expected


def test_adapters_without_room_are_refused_by_flag_before_anything_is_loaded(tmp_path):
    tiny.write_model(tmp_path, "llama", seed=0)
    with pytest.raises(ValueError, match=r"--adapter-bytes holds .* two adapters of rank 128 take 32; raise it"):
        run(config(tmp_path))


@pytest.fixture
def subject(tmp_path):
    engine = EchoEngine()
    versions = {
        rank: add_versions(engine, read_adapter(write_adapter(tmp_path / str(rank), rank=rank)), 4) for rank in (8, 64)
    }
    return _Subject(engine=engine, vocab_size=100, versions=versions)


def test_mix_has_as_many_adapters_as_a_rank_and_its_ranks_take_turns(subject):
    eights, sixties = subject.versions[8], subject.versions[64]
    assert list(subject.versions_of((8,))) == eights
    assert list(subject.versions_of((8, 64))) == [eights[0], sixties[0], eights[1], sixties[1]]


def test_base_uses_no_adapter(subject):
    assert subject.versions_of((0,)) == []
