"""The coordinator's process. Owns: its life, and when the cluster counts as complete. Decides nothing; needs no JAX."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry

from cluster import control_pb2_grpc, serving_pb2_grpc
from cluster.admin import ClusterAdapters, ClusterStatus
from cluster.cluster_config import ClusterConfig
from cluster.control_service import ControlService
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.demand import DemandConfig
from cluster.events import LoadAsked
from cluster.follower import Follower
from cluster.gateway import front_door, points
from cluster.metrics import Metrics
from cluster.placement import named, unfailing
from cluster.registry import Registry
from cluster.rounds import RoundConfig
from cluster.server import Server, until_told
from cluster.view import HostState
from lorajax.errors import LorajaxError, Overloaded, Unavailable

_LOG = logging.getLogger("lorajax")
_SETTLE_S = 10.0
"""How long a coordinator that comes back waits for hosts before it goes on with those it sees."""
_MIN_KEPT_S = 5.0
"""A copy that nobody wants goes after a round; where rounds are short, after this."""
_PATIENCE_S = 300.0
"""How long the first start waits for every replica once it has waited for one."""
_PRELOADS = 4
"""Adapters that are registered at once at the start."""
_WAIT_S = 0.25


def run(config: ClusterConfig) -> int:
    """Coordinate until told to go; returns the exit code.

    Raises: ValueError if the address is taken or, at the first start, a preloaded adapter cannot be served; OSError
    once the registry cannot be written: what it holds is where the next start goes on.
    """
    try:
        asyncio.run(_serve(config))
    except sqlite3.Error as error:
        raise OSError(f"cannot write the registry in {config.state_dir}: {error}; make room there") from None
    return 0


async def _serve(config: ClusterConfig) -> None:
    registry = Registry(config.state_dir / f"registry-{config.fingerprint_id}.sqlite")
    paced = coordinator_config(
        interval_s=config.interval_s, min_copies=config.min_copies, budget_bytes=config.budget_bytes
    )
    coordinator = Coordinator(paced, points(config), unfailing(named(config.policy)))
    control = ControlService(coordinator, registry, config.fingerprint)
    metrics = Metrics(CollectorRegistry())
    door = front_door(config, metrics)
    server = Server((door.handlers(),), metrics)
    control_pb2_grpc.add_ControlServicer_to_server(control, server.grpc)
    serving_pb2_grpc.add_AdaptersServicer_to_server(ClusterAdapters(control), server.grpc)
    serving_pb2_grpc.add_ClusterServicer_to_server(ClusterStatus(control), server.grpc)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(control.run())
            tasks.create_task(_become_ready(config, control, registry))
            tasks.create_task(_follow(control, Follower(door, server.set_serving)))

    async def drain() -> None:
        door.flights.drain()
        await door.flights.wait_empty()

    await server.start(config.coordinator)
    _LOG.info("coordinating on %s", config.coordinator)
    try:
        await until_told(work(), drain, config.drain_s)
    except* ValueError as group:
        raise _first(group) from None
    except* sqlite3.Error as group:
        raise _first(group) from None
    finally:
        control.close()
        door.flights.end_all()
        await server.stop()
        await door.close()
        registry.close()


def _first[E: Exception](group: ExceptionGroup[E]) -> E:
    """One of its errors, however deep the group lies in which it was raised."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _follow(control: ControlService, follower: Follower) -> None:
    while True:
        with control.watching() as updates:
            while (update := await updates.get()) is not None:
                await follower.apply(update)


async def _become_ready(config: ClusterConfig, control: ControlService, registry: Registry) -> None:
    """Wait for the hosts, register what the configuration names, and say so; ends then."""
    is_back = control.was_placed
    started_s = asyncio.get_running_loop().time()
    while (num_serving := _num_serving(control)) < config.replicas:
        waited_s = asyncio.get_running_loop().time() - started_s
        if num_serving and waited_s > (_SETTLE_S if is_back else _PATIENCE_S):
            _LOG.warning("going on with %d of %d replicas", num_serving, config.replicas)
            break
        await asyncio.sleep(_WAIT_S)
    await _preload_all(config.preload, control, registry)
    control.is_ready = True
    control.publish()
    _LOG.info("ready: %d hosts, %d adapters", _num_serving(control), len(control.table().registrations))


async def _preload_all(preload: Iterable[tuple[str, Path]], control: ControlService, registry: Registry) -> None:
    """Register what the configuration has come to name since it was last applied.

    What was done by calls stays: a name that was loaded from another folder, or unloaded, is left as it is until the
    configuration names another folder for it. Once the cluster has run a folder that cannot be served is skipped.

    Raises: ValueError at the first start where one cannot be served.
    """
    limit = asyncio.Semaphore(_PRELOADS)
    applied = registry.preloaded()

    async def apply(name: str, folder: str) -> None:
        async with limit:
            try:
                await _preload(control, name, folder)
            except LorajaxError as error:
                words = f"[adapters] preload.{name} = {folder!r}: {error}"
                if not control.was_placed:
                    raise ValueError(words) from None
                _LOG.error("%s; going on without it", words)
            else:
                registry.save_preloaded(name, folder)

    async with asyncio.TaskGroup() as tasks:
        for name, folder in preload:
            if applied.get(name) != str(folder):
                tasks.create_task(apply(name, str(folder)))


async def _preload(control: ControlService, name: str, folder: str) -> None:
    """Register a folder, unless the name stands for it already. Raises the LorajaxError it is refused with for good."""
    known = control.table().registrations.get(name)
    if known is not None and known.adapter.path == folder:
        return
    while True:
        try:
            await control.ask(LoadAsked(call=control.next_call(), name=name, path=folder, replace=True))
        except (Unavailable, Overloaded) as error:
            await asyncio.sleep(error.retry_s)
        else:
            return


def _num_serving(control: ControlService) -> int:
    return sum(host.state is HostState.SERVING for host in control.table().hosts.values())


def coordinator_config(*, interval_s: float, min_copies: int, budget_bytes: int) -> CoordinatorConfig:
    """What follows from the interval between rounds, for whoever runs a coordinator."""
    return CoordinatorConfig(
        interval_s=interval_s,
        min_copies=min_copies,
        rounds=RoundConfig(budget_bytes=budget_bytes, drop_after_s=max(_MIN_KEPT_S, interval_s)),
        demand=DemandConfig(window_s=min(5.0, interval_s), half_life_s=2 * interval_s, horizon_s=interval_s),
    )
