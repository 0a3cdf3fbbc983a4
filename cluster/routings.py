"""The routings by name. Owns: that list, and what else a name means. Does not: route (routing.py does)."""

from collections.abc import Mapping

from cluster import by_name
from cluster.routing import OURS
from cluster.routing_input import Routing

ROUTINGS: Mapping[str, Routing] = {"ours": OURS}
"""What `[placement] routing` may say besides MODULE:NAME."""


def named(name: str) -> Routing:
    """The routing of a name in `[placement] routing`. Raises ValueError where MODULE:NAME is none."""
    routing = by_name.named("placement.routing", name, ROUTINGS)
    if not isinstance(routing, Routing):
        raise ValueError(f"placement.routing is {name!r}, which is no Routing; name one that can be imported")
    return routing
