"""How JAX runs in tests: on four CPU devices, strict about dtypes and ranks, never on an accelerator by accident."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C is tested

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()

import jax
import pytest

from pallas_kernels import native

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Keep compiled programs in pytest's cache, so that the next run need not compile them."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def fast_kernels(pytestconfig):
    """Name of the fastest kernels here: the C++ ones, built once and kept in pytest's cache, or else XLA's."""
    try:
        native.load(pytestconfig.cache.mkdir("kernels"), os.environ.get("CXX"))
    except NotImplementedError:
        return "xla"
    return "native"


@pytest.fixture(scope="session")
def native_kernels(fast_kernels):
    """The C++ kernels; whoever asks for them is skipped where they cannot be built."""
    if fast_kernels != "native":
        pytest.skip("the C++ kernels cannot be built here: no C++ compiler, or one that fails")
