"""Hosts by name. Owns: the figures of each, and how they were derived. Measures nothing."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.simulator import hardware_files
from benchmarks.simulator.device import Kernels, Roofline, StepModel
from benchmarks.simulator.hardware import Hardware
from lorajax.config import EngineConfig
from lorajax.limits import EngineLimits

_GIB = 2**30
_RESULTS = Path(__file__).resolve().parent.parent / "results"


def a100_llama_7b() -> Hardware:
    """Four A100 of 40 GB as one host (TP 4), Llama-7B in float16, S-LoRA's kernels and adapters (q, k, v and o).

    Rooflines, at 80 % of 1.555 TB/s and 50 % of 312 TFLOP/s each: weights 13.5 GB; 13.5 GFLOP a token; 524 kB of KV a
    token; 2.1 MB a rank row (a rank-8 adapter has 16.8 MB), which is what one more adapter in a step costs.
    Overhead: S-LoRA's own run of Llama-7B on one A100 (its repository, benchmarks/paper: requests of 8 … 512 tokens in
    and out, rank 8) serves 8.05 of 10 requests/s, 2,093 tokens/s from about 200 sequences: 95 ms a step, of which such
    rooflines explain 67; 28 are left.
    Calibrated: what one row costs one token, 0.2 us, so that rank 8 beside as much of rank 128 has an 84 % longer p95
    TTFT than rank 8 alone (LoRAServe's measurement; Azure's conversation lengths at 4 requests/s). It lies between
    what S-LoRA's runs with mixed ranks show (0.08 to 0.16, a quarter of one device's) and the row's bytes from memory
    for every token (0.42). A host then takes 8 requests/s of mixed ranks within 10 s, as LoRAServe's do.
    """
    step = StepModel(
        base=Roofline(overhead_s=28e-3, weights_s=2.7e-3, token_s=21.6e-6),
        context_s=0.105e-6,
        adapters_s=0.0,
        adapter_token_s=0.0,
        row_s=0.42e-6,
        prefill_row_s=0.2e-6,
        decode_row_s=0.2e-6,
        kernels=Kernels.BATCH_MAX,
    )
    engine = EngineConfig(
        kv_bytes=100 * _GIB,
        adapter_bytes=20 * _GIB,
        host_adapter_bytes=256 * _GIB,
        max_batch_tokens=2048,
        interleaved_tokens=2048,
        max_sequences=256,
        max_queue=10**6,
        page_writes_per_step=16,
        tensor_parallel=4,
    )
    page_bytes = 8 * 2_097_152
    return Hardware(
        name="a100-tp4-llama-7b-slora",
        about="4 x A100 40 GB, Llama-7B, S-LoRA; rooflines, S-LoRA's published runs",
        step=step,
        limits=_limits(engine, token_bytes=524_288, page_bytes=page_bytes, max_model_len=16_384),
        host_bytes=engine.host_adapter_bytes,
        page_bytes=page_bytes,
        link_bytes_per_s=20e9,
        store_bytes_per_s=2e9,
        load_bytes_per_s=60e9,
    )


def h200_llama_8b() -> Hardware:
    """One H200, Llama-3-8B in bfloat16, our kernels and adapters (all seven linear layers).

    Rooflines at 4.3 TB/s and 780 TFLOP/s: weights 16.1 GB; 16.1 GFLOP a token; 131 kB of KV a token; 5.24 MB a rank
    row, 10.5 MFLOP a row and two tokens at 60 % of the peak. A token with an adapter reads and writes its activations
    once more, 5.2 MB. 8 launches a layer of 2.5 us. 1 ms of overhead is a guess. Nothing was measured on the device.
    """
    step = StepModel(
        base=Roofline(overhead_s=1e-3, weights_s=3.73e-3, token_s=20.6e-6),
        context_s=0.0305e-6,
        adapters_s=0.64e-3,
        adapter_token_s=1.22e-6,
        row_s=1.22e-6,
        prefill_row_s=0.0112e-6,
        decode_row_s=0.0112e-6,
    )
    engine = EngineConfig(
        kv_bytes=80 * _GIB,
        adapter_bytes=20 * _GIB,
        host_adapter_bytes=256 * _GIB,
        max_batch_tokens=4096,
        interleaved_tokens=1024,
        max_sequences=256,
        max_queue=10**6,
        page_writes_per_step=8,
    )
    page_bytes = 8 * 5_242_880
    return Hardware(
        name="h200-llama-8b",
        about="H200, Llama-3-8B, lorajax; rooflines",
        step=step,
        limits=_limits(engine, token_bytes=131_072, page_bytes=page_bytes, max_model_len=16_384),
        host_bytes=engine.host_adapter_bytes,
        page_bytes=page_bytes,
        link_bytes_per_s=40e9,
        store_bytes_per_s=3e9,
        load_bytes_per_s=50e9,
    )


def _limits(engine: EngineConfig, *, token_bytes: int, page_bytes: int, max_model_len: int) -> EngineLimits:
    return EngineLimits(
        config=engine,
        num_kv_pages=engine.kv_bytes // (token_bytes * engine.kv_page_tokens),
        num_adapter_pages=engine.adapter_bytes // page_bytes,
        max_model_len=max_model_len,
    )


PRESETS: Mapping[str, Hardware] = {one.name: one for one in (a100_llama_7b(), h200_llama_8b())}
"""What `--hardware` may say, besides the name of a measured one or of its file."""


def named(name: str, results: Path = _RESULTS) -> Hardware:
    """A preset, or what `python -m benchmarks steps` measured: by the name that it was given, or by its file.

    Raises: ValueError naming what there is.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name) if name.endswith(".json") else results / f"steps-{name}.json"
    try:
        return hardware_files.read(path)
    except OSError as error:
        known = ", ".join(PRESETS)
        raise ValueError(f"{path}: {error.strerror}; name a file of `python -m benchmarks steps`, or {known}") from None
