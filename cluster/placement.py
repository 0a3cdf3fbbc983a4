"""The placement policies by name. Owns: that list, and what else a name means. Does not: place (placement_* do)."""

import functools
import logging
import math
from collections.abc import Mapping

from cluster import by_name, placement_loraserve, placement_ours
from cluster.operating_points import OperatingPoints
from cluster.placement_input import PlacementInput, Policy
from cluster.view import Share, Shares

__all__ = ["POLICIES", "PlacementInput", "Policy", "named", "unfailing"]

_LOG = logging.getLogger(__name__)

POLICIES: Mapping[str, Policy] = {"ours": placement_ours.place, "loraserve": placement_loraserve.place}
"""What `[placement] policy` may say besides MODULE:FUNCTION."""

_NOTHING = PlacementInput(
    adapters={},
    demand={},
    points=OperatingPoints(tokens_per_s={0: 1.0}, mixing=0.0, fetch_bytes_per_s=1.0),
    hosts=(),
    budget_bytes=0,
)
"""What every policy can place: it tells one from other functions before a cluster depends on it."""


def named(name: str) -> Policy:
    """The policy of a name in `[placement] policy`. Raises ValueError where MODULE:FUNCTION is none."""
    policy = by_name.named("placement.policy", name, POLICIES)
    try:
        is_policy = policy(_NOTHING) == {}
    except Exception as error:  # whatever a stranger's function raises
        raise ValueError(f"{_what(name)}: {type(error).__name__}: {error}") from error
    if not is_policy:
        raise ValueError(_what(name))
    return policy


def unfailing(policy: Policy) -> Policy:
    """The same where it gives shares; where it raises or gives what are none, all stays as it was and the log says why.

    A coordinator outlives the policies that people write.
    """

    @functools.wraps(policy)
    def place(given: PlacementInput) -> Shares:
        try:
            return _checked(policy(given))
        except Exception:  # noqa: BLE001  # whatever a stranger's function raises
            _LOG.exception("the placement policy failed; every adapter stays where it is")
            return given.previous

    return place


def _checked(shares: Shares) -> Shares:
    for version, parts in shares.items():
        if not all(isinstance(one, Share) and 0 <= one.share < math.inf for one in parts):
            raise ValueError(f"{version}: {parts!r} are no shares")
        if len({one.host for one in parts}) < len(parts):
            raise ValueError(f"{version}: a host has several shares")
    return shares


def _what(name: str) -> str:
    return f"placement.policy is {name!r}, which does not give {{}} for a PlacementInput without adapters and hosts"
