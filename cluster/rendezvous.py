"""The process of the world's coordination service. Owns: its life. Does nothing else: its death ends the world."""

import logging
import signal
import threading

from cluster import world
from cluster.cluster_config import ClusterConfig

_LOG = logging.getLogger("lorajax")


def run(config: ClusterConfig, *, address: str) -> int:
    """Serve until told to go; returns the exit code. Raises ValueError if the address is taken."""
    gone = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: gone.set())
    try:
        service = world.start_service(address, config.replicas * config.processes_per_replica)
    except RuntimeError as error:
        raise ValueError(f"cannot listen on {address}: {error}") from None
    _LOG.info("rendezvous on %s", address)
    gone.wait()
    del service
    return 0
