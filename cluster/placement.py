"""The placement policies by name. Owns: that list. Does not: place (placement_ours, placement_loraserve do)."""

from collections.abc import Mapping

from cluster import placement_loraserve, placement_ours
from cluster.placement_input import PlacementInput, Policy

__all__ = ["POLICIES", "PlacementInput", "Policy"]

POLICIES: Mapping[str, Policy] = {"ours": placement_ours.place, "loraserve": placement_loraserve.place}
"""What `[placement] policy` may say."""
