"""The placement policies by name. Owns: that list, and what else a name means. Does not: place (placement_* do)."""

import importlib
from collections.abc import Mapping

from cluster import placement_loraserve, placement_ours
from cluster.placement_input import PlacementInput, Policy

__all__ = ["POLICIES", "PlacementInput", "Policy", "named"]

POLICIES: Mapping[str, Policy] = {"ours": placement_ours.place, "loraserve": placement_loraserve.place}
"""What `[placement] policy` may say besides MODULE:FUNCTION."""


def named(name: str) -> Policy:
    """The policy of a name in `[placement] policy`. Raises ValueError where MODULE:FUNCTION cannot be imported."""
    if name in POLICIES:
        return POLICIES[name]
    module, _, function = name.partition(":")
    try:
        policy: Policy = getattr(importlib.import_module(module), function)  # any module's
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"placement.policy is {name!r}: {error}; name a function that can be imported") from None
    return policy
