"""Questions for placements: a few equal hosts, and adapters with ranks and demand. Owns: these records alone."""

from cluster.operating_points import DEFAULT
from cluster.placement import PlacementInput
from cluster.view import Adapter, Forecast, HostName, HostSpec, HostState, HostView
from lorajax.spec import Version

HOSTS = [HostName(f"host-{number}") for number in range(3)]


def version(number):
    return Version(f"{number:064x}")


def host(name):
    spec = HostSpec(
        name=name, address="127.0.0.1:1", incarnation=1, host_bytes=2**30, num_adapter_pages=64, max_sequences=8
    )
    return HostView(spec=spec, state=HostState.SERVING)


def question(num_adapters=9, min_copies=1, tokens=None, hosts=HOSTS, **changes):
    """Adapters of ranks 8, 16 …; `tokens` are the tokens/s that they want, in that order."""
    adapters = [
        Adapter(version=version(number), rank=8 * (number % 16 + 1), num_bytes=1, path="", min_copies=min_copies)
        for number in range(num_adapters)
    ]
    return PlacementInput(
        adapters={one.version: one for one in adapters},
        demand={version(number): Forecast(mean=wanted, high=wanted) for number, wanted in enumerate(tokens or ())},
        points=DEFAULT,
        hosts=tuple(map(host, hosts)),
        budget_bytes=2**30,
        **changes,
    )


def hosts_of(shares):
    return [[share.host for share in parts] for parts in shares.values()]


def loads(given, shares):
    """Tokens/s of each host."""
    found = dict.fromkeys((view.spec.name for view in given.hosts), 0.0)
    for one, parts in shares.items():
        for share in parts:
            found[share.host] += share.share * given.demand[one].high
    return found
