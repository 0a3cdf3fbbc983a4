"""Hosts and tables made by hand before the real router.

Owns: their making, and the short words for what befalls them. Does not: know how a host is chosen.
"""

from dataclasses import replace

from cluster.operating_points import OperatingPoints
from cluster.routing import OURS, Ask, Router, RouterConfig
from cluster.view import Adapter, HostLoad, HostState, HostView, Registration, Share, Table
from lorajax.spec import Level
from tests.cluster.fake_hosts import host_spec

# A token costs 1 ms of the base and 2 ms of rank 100; an adapter of 1000 bytes is fetched in a second.
POINTS = OperatingPoints(tokens_per_s={0: 1000.0, 100: 500.0}, mixing=0.0, fetch_bytes_per_s=1000.0)
ASK = Ask(versions=("v",), prompt_tokens=10, max_tokens=10)
BASE = replace(ASK, versions=())


def host(name, *copies, state=HostState.SERVING, level=Level.DEVICE, **changes):
    return HostView(spec=host_spec(name, **changes), state=state, copies=dict.fromkeys(copies, level))


def table(*hosts, shares=None, ranks=None, num_bytes=100):
    ranks = ranks or {"v": 100}
    found = {
        version: Registration(
            name=f"name of {version}",
            adapter=Adapter(version=version, rank=rank, num_bytes=num_bytes, path=f"/{version}"),
        )
        for version, rank in ranks.items()
    }
    return Table(
        number=1,
        round=1,
        hosts={one.spec.name: one for one in hosts},
        registrations={one.name: one for one in found.values()},
        shares={
            version: tuple(Share(name, share) for name, share in some.items())
            for version, some in (shares or {}).items()
        },
    )


def router(*hosts, points=POINTS, config=None, routing=OURS, **changes):
    made = Router(config or RouterConfig(), points, routing)
    made.update(table(*hosts, **changes))
    return made


def beat(made, name, now_s=0.0, state=HostState.SERVING, copies=None, **load):
    made.beat(name, state, HostLoad(**load), copies, now_s)


def send(made, request_id, ask=ASK, now_s=0.0, **options):
    route = made.choose(ask, now_s, **options)
    made.started(request_id, route, ask)
    return route.host


def serve_as_predicted(made, factor=1.0):
    """Enough requests for the pace to be known: each first token comes after `factor` times what was predicted."""
    for number in range(20):
        route = made.choose(ASK, 0.0)
        made.started(f"warm{number}", route, ASK)
        made.first_token(f"warm{number}", factor * route.first_token_s)
        made.ended(f"warm{number}", factor * route.first_token_s)
