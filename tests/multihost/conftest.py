"""One cluster of three hosts for all tests of this folder that leave it as they found it."""

import functools
from pathlib import Path

import pytest

from benchmarks.local_cluster import launched
from lorajax.config import EngineConfig
from tests import tiny_engine
from tests.multihost import rig


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model, its adapters and a configuration."""
    folder = tmp_path_factory.mktemp("multihost")
    rig.write_model(folder / "model")
    rig.write_adapters(folder / "adapters")
    rig.write_config(folder)
    return folder


@pytest.fixture(scope="session")
def environment(pytestconfig, tmp_path_factory):
    """What the processes find: their own cache from one run to the next, one device each, a folder for scratch."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("multihost")),
        "XLA_FLAGS": "",
        "TMPDIR": str(tmp_path_factory.mktemp("scratch")),
    }


@pytest.fixture(scope="session")
def cluster(folder, environment):
    """Three hosts. It fails in the end if a process or a file is left."""
    with launched(folder / "cluster.toml", folder / "said", environment=environment) as running:
        yield running
    scratch, state = Path(environment["TMPDIR"]), folder / "state"
    assert list(scratch.iterdir()) == []
    assert {path.suffix for path in state.iterdir()} <= {"", ".lock", ".sqlite"}


@pytest.fixture(scope="session")
def alone(folder):
    """The same model and adapters in one engine of this process."""
    config = EngineConfig(host_adapter_bytes=64 << 20, dtype="float32", **rig.ENGINE)
    adapters = {name: folder / "adapters" / name for name in rig.PRELOADED | rig.LATER}
    return tiny_engine.compiled(folder / "model", adapters, config, "xla")


@pytest.fixture(scope="session")
def expected(alone):
    """The greedy answer of that engine to adapters' names."""

    @functools.cache
    def answer(*adapters, max_tokens=24, prompt=rig.PROMPT):
        with tiny_engine.Serving(alone) as serving:
            serving.load(*alone.adapters.values())
            request = alone.request("one", prompt, *adapters, max_tokens=max_tokens)
            return serving.ask(request)["one"].ids

    return answer
