"""Small clusters to simulate, and what hypothesis draws of them."""

from dataclasses import replace

from hypothesis import strategies as st

from benchmarks.baselines.systems import SIMULATED
from benchmarks.outcomes.statistics import Slo
from benchmarks.simulator.config import Distortion, Loss, SimulationConfig
from benchmarks.simulator.device import Kernels, Roofline, StepModel
from benchmarks.simulator.hardware import Hardware
from benchmarks.workloads.records import Arrival, Workload
from lorajax.config import EngineConfig
from lorajax.limits import EngineLimits

PAGE = 1000
RANKS = {"a": 8, "b": 16, "c": 16, "d": 64, "e": 128}


def hardware(*, num_kv_pages=24, num_adapter_pages=20, host_bytes=100 * PAGE, jitter=((1.0,),), **sizes):
    """A host of a few pages, whose steps take 0.1 s and more: everything that can run out does."""
    sizes = {"max_batch_tokens": 32, "interleaved_tokens": 16, "max_sequences": 4, "page_writes_per_step": 3} | sizes
    engine = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=host_bytes, kv_page_tokens=4, **sizes)
    return Hardware(
        name="tiny",
        about="nothing real",
        step=StepModel(
            base=Roofline(overhead_s=0.05, weights_s=0.05, token_s=0.01),
            context_s=1e-4,
            adapters_s=0.01,
            adapter_token_s=1e-3,
            row_s=1e-4,
            prefill_row_s=1e-5,
            decode_row_s=1e-5,
            attended_s=1e-4,
            sequence_s=1e-3,
            kernels=Kernels.BATCH_MAX,
        ),
        limits=EngineLimits(
            config=engine, num_kv_pages=num_kv_pages, num_adapter_pages=num_adapter_pages, max_model_len=200
        ),
        host_bytes=host_bytes,
        page_bytes=PAGE,
        link_bytes_per_s=50_000.0,
        store_bytes_per_s=10_000.0,
        load_bytes_per_s=1e6,
        jitter=jitter,
    )


def config(**changes):
    """Two hosts that place anew every 5 s."""
    return replace(
        SimulationConfig(
            hardware=hardware(), num_hosts=2, slo=Slo(ttft_s=5.0, tpot_s=1.0), interval_s=5.0, budget_bytes=20 * PAGE
        ),
        **changes,
    )


def workload(*arrivals):
    """Of (when, prompt tokens, output tokens, adapter)."""
    return Workload(name="told", arrivals=tuple(Arrival(*one) for one in arrivals), ranks=RANKS)


TENTHS = st.integers(0, 200).map(lambda tenths: tenths / 10)
"""Moments that collide with the ends of steps."""

WORKLOADS = st.lists(
    st.tuples(TENTHS, st.integers(1, 40), st.integers(1, 30), st.sampled_from(("", *RANKS))), min_size=1, max_size=40
).map(lambda arrivals: workload(*sorted(arrivals)))

HARDWARE = st.builds(
    hardware,
    num_kv_pages=st.integers(18, 60),
    num_adapter_pages=st.integers(17, 40),
    host_bytes=st.integers(17, 40).map(lambda pages: pages * PAGE),
    max_sequences=st.integers(1, 8),
    max_batch_tokens=st.sampled_from((8, 16, 64)),
    jitter=st.sampled_from((((1.0,),), ((1.0, 1.5, 1.0, 3.0, 1.25),), ((1.25, 1.0, 2.0), (1.5, 1.0)))),
)

LOSSES = st.lists(
    st.builds(
        lambda host, at_s, gone_s, is_silent: Loss(host=host, at_s=at_s, back_s=at_s + gone_s, is_silent=is_silent),
        host=st.integers(0, 1),
        at_s=TENTHS,
        gone_s=st.sampled_from((1.0, 5.0, float("inf"))),
        is_silent=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda loss: loss.host,
).map(tuple)

CONFIGS = st.builds(
    config,
    hardware=HARDWARE,
    num_hosts=st.integers(2, 3),
    deadline_s=st.sampled_from((None, None, 3.0, 20.0)),
    losses=LOSSES,
    distortion=st.sampled_from((Distortion(), Distortion(low=0.5, high=1.5))),
    keeps_tokens=st.booleans(),
)

ALL_SYSTEMS = st.sampled_from(sorted(SIMULATED)).map(SIMULATED.__getitem__)
