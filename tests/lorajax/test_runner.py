"""The runner alone: how compiling ends where it goes wrong. What its programs compute is for test_parity.py."""

import threading

import jax
import jax.numpy as jnp
import pytest

from checkpoints import base
from lorajax.config import EngineConfig
from lorajax.mesh import Layout, make_mesh
from lorajax.runner import COMPILER_THREAD, Runner
from pallas_kernels.ops import Ops, xla_lora
from tests import tiny

CONFIG = EngineConfig(kv_bytes=4 << 20, adapter_bytes=2 << 20, host_adapter_bytes=1 << 20, dtype="float32")


def test_an_error_drops_what_is_not_compiled_yet_and_waits_for_nothing(tmp_path):
    has_ended, calls = threading.Event(), []

    def attention(*_):
        calls.append(threading.current_thread())
        if len(calls) == 1:
            raise NotImplementedError("the first fails")
        assert has_ended.wait(20)
        raise NotImplementedError("and the others, once all is over")

    tiny.write_model(tmp_path, "llama", seed=1)
    spec = base.read_spec(tmp_path)
    layout = Layout.of(spec, make_mesh(jax.devices(), 1))
    weights = base.load(tmp_path, spec, lambda name: layout.sharding(layout.weight(name)), jnp.dtype("float32"))
    runner = Runner(spec, CONFIG, layout, Ops("failing", xla_lora.grouped_lora, attention), weights)
    with pytest.raises(NotImplementedError, match="the first fails"):
        runner.compile(lambda _: None)
    has_ended.set()
    for thread in threading.enumerate():
        if thread.name.startswith(COMPILER_THREAD):
            thread.join()
    assert len(calls) <= 3
