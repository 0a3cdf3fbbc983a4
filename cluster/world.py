"""The JAX world that hosts share. Owns: the only use of JAX's private distributed API. Does not: move anything.

All processes join one `jax.distributed` world whose coordination service lives in a process of its own, so that any
host may die and come back. The public `jax.distributed.initialize` would put the service into process 0, take SIGTERM
for itself and abort the others with it (measured with jax 0.11.2).
"""

from typing import Any

import jax
from jax._src import distributed
from jax._src.lib import _jax  # type: ignore[attr-defined]  # private

from cluster.config import WorldConfig

HEARTBEAT_S = 10
"""After so much silence a process counts as dead in the world; the cluster's own beats tell much sooner."""
_SHUTDOWN_S = 5
_GLOO = "cpu:gloo/"
_PROCESS_BITS = 11
"""On CPUs a device's id is its process's number, then so many bits for its own."""


def start_service(address: str, num_processes: int) -> Any:  # noqa: ANN401  # JAX gives it no type
    """Start the coordination service; it lives as long as what this returns."""
    return _jax.get_distributed_runtime_service(
        address,
        num_processes,
        heartbeat_timeout=HEARTBEAT_S,
        shutdown_timeout=_SHUTDOWN_S,
        recoverable=True,
    )


def join(config: WorldConfig) -> None:
    """Join the world; must come before the first use of a device."""
    jax.config.update("jax_num_cpu_devices", config.devices)
    jax.config.update("jax_enable_recoverability", True)  # noqa: FBT003  # JAX's own signature
    client = _jax.get_distributed_runtime_client(
        config.rendezvous,
        config.process,
        init_timeout=config.init_timeout_s,
        use_compression=True,
        heartbeat_timeout=HEARTBEAT_S,
    )
    client.connect()
    _forget_former_life(client, config.process)
    state = distributed.global_state
    state.client = client
    state.process_id = config.process
    state.num_processes = config.num_processes
    state.coordinator_address = config.rendezvous


def announce(key: str, value: str) -> None:
    """Let every process of the world look a value up, in place of what an earlier life said."""
    _client().key_value_set(f"lorajax/{key}", value, allow_overwrite=True)


def look_up(key: str, timeout_s: float) -> str:
    """What was announced last; waits for it. Raises TimeoutError."""
    try:
        return str(_client().blocking_key_value_get(f"lorajax/{key}", int(1000 * timeout_s)))
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"nobody announced {key} within {timeout_s:g} s") from error


def _client() -> Any:  # noqa: ANN401  # JAX gives it no type
    return distributed.global_state.client


def _forget_former_life(client: Any, process: int) -> None:  # noqa: ANN401  # JAX gives it no type
    """Take away what a process that was restarted left in the service: JAX would refuse to write it again.

    The topology is written by process 0; Gloo's addresses lie under the ids of the devices of each communicator.
    """
    stale = ["cpu:global_topology/cpu"] if process == 0 else []
    for key, _ in client.key_value_dir_get_bytes(_GLOO):
        devices = key.removeprefix(_GLOO).partition("/")[0].split(",")
        if any(int(device) >> _PROCESS_BITS == process for device in devices):
            stale.append(key)
    for key in stale:
        client.key_value_delete(key)


def devices_of(processes: range) -> list[jax.Device]:
    """The devices of these processes, process after process."""
    return sorted((d for d in jax.devices() if d.process_index in processes), key=lambda d: (d.process_index, d.id))
