"""When a copy of an adapter arrives. Owns: how busy the line of each host is. Does not: decide what is copied."""

from benchmarks.simulator.hardware import Hardware
from cluster.view import HostName


class Links:
    """Every host has a line in and a line out; on each, one copy goes after the other.

    Invariant: no line carries more than its rate.
    """

    def __init__(self, hardware: Hardware) -> None:
        """All lines are idle."""
        self._hardware = hardware
        self._free_s: dict[tuple[HostName, bool], float] = {}

    def arrival_s(self, source: HostName | None, target: HostName, num_bytes: int, now_s: float) -> float:
        """Send a copy, from the store where there is no source; returns when all of it is there."""
        hardware = self._hardware
        rate = hardware.store_bytes_per_s if source is None else hardware.link_bytes_per_s
        lines = [(target, True)] if source is None else [(target, True), (source, False)]
        end_s = max(now_s, *(self._free_s.get(line, 0.0) for line in lines)) + num_bytes / rate
        self._free_s |= dict.fromkeys(lines, end_s)
        return end_s + hardware.link_latency_s
