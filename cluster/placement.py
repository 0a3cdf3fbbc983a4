"""The placement policies by name. Owns: that list, and what else a name means. Does not: place (placement_* do)."""

from collections.abc import Mapping

from cluster import by_name, placement_loraserve, placement_ours
from cluster.placement_input import PlacementInput, Policy

__all__ = ["POLICIES", "PlacementInput", "Policy", "named"]

POLICIES: Mapping[str, Policy] = {"ours": placement_ours.place, "loraserve": placement_loraserve.place}
"""What `[placement] policy` may say besides MODULE:FUNCTION."""


def named(name: str) -> Policy:
    """The policy of a name in `[placement] policy`. Raises ValueError where MODULE:FUNCTION cannot be imported."""
    return by_name.named("placement.policy", name, POLICIES)
