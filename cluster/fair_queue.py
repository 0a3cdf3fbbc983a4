"""Who is served next among tenants that wait. Owns: their waiting requests and whose turn it is. Knows no requests."""

from collections import OrderedDict
from dataclasses import dataclass, field

from lorajax.errors import Overloaded

_QUANTUM = 1024.0
"""Cost that each tenant may spend per turn: small against what a request may cost, so that turns stay short."""


@dataclass(slots=True)
class _Tenant:
    """What one tenant waits for, oldest first, and what it may spend before its turn ends."""

    costs: OrderedDict[str, float] = field(default_factory=OrderedDict)
    credit: float = 0.0

    def can_pay(self) -> bool:
        return next(iter(self.costs.values())) <= self.credit


class FairQueue:
    """Deficit round robin: tenants that wait are served equal cost over time, however much each of them asks.

    Invariant: a key waits at most once, a tenant is kept exactly while it waits, at most `capacity` keys wait.
    Owner: the event loop. Not thread-safe.
    Source: Shreedhar and Varghese 1995.
    """

    def __init__(self, capacity: int = 16_384) -> None:
        """Start empty."""
        self._capacity = capacity
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()  # whose turn it is comes first
        self._tenant_of: dict[str, str] = {}

    def __len__(self) -> int:
        """Keys that wait."""
        return len(self._tenant_of)

    def put(self, tenant: str, key: str, cost: float) -> None:
        """Let a request wait behind its tenant's others. Raises: Overloaded if full; ValueError if the key waits."""
        if key in self._tenant_of:
            raise ValueError(f"{key!r} waits already; put every key once")
        if len(self) >= self._capacity:
            raise Overloaded(f"{self._capacity} requests are waiting; try again")
        self._tenant_of[key] = tenant
        self._tenants.setdefault(tenant, _Tenant()).costs[key] = cost

    def take(self) -> str | None:
        """The request that is served next, which waits no longer; None where none waits."""
        if not self._tenants:
            return None
        if not any(self._next_turn() for _ in range(len(self._tenants))):
            self._pass_turns()
            while not self._next_turn():
                pass
        tenant = next(iter(self._tenants.values()))
        key, cost = next(iter(tenant.costs.items()))
        tenant.credit -= cost
        self.remove(key)
        return key

    def remove(self, key: str) -> None:
        """Forget a request, if it waits."""
        name = self._tenant_of.pop(key, None)
        if name is None:
            return
        costs = self._tenants[name].costs
        del costs[key]
        if not costs:
            del self._tenants[name]

    def _next_turn(self) -> bool:
        """Whether the first tenant can pay; otherwise it is given a quantum and goes to the back."""
        name, tenant = next(iter(self._tenants.items()))
        if tenant.can_pay():
            return True
        tenant.credit += _QUANTUM
        self._tenants.move_to_end(name)
        return False

    def _pass_turns(self) -> None:
        """Skip the turns in which nobody could pay: one expensive request must not cost thousands of them."""
        missing = min(next(iter(tenant.costs.values())) - tenant.credit for tenant in self._tenants.values())
        for tenant in self._tenants.values():
            tenant.credit += max(0.0, missing // _QUANTUM) * _QUANTUM
