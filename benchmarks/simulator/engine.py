"""One replica's engine on the virtual clock. Owns: the product's scheduler, and when its steps begin and end.

Does not: know hosts, or how long a step takes (device.py). Messages are taken between steps, as in `lorajax.engine`.
Steps that are alike are taken at once, up to the next message: the outcome is the same (`SimulationConfig.leaps`).
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Protocol

from benchmarks.simulator.clock import Action, Timer
from benchmarks.simulator.flight import Flight
from benchmarks.simulator.site import Site
from benchmarks.simulator.timing import Timing
from lorajax.plan import StepPlan
from lorajax.scheduler import Scheduler
from lorajax.sequence import Sequence
from lorajax.spec import Failed, Finished, Request, Token, TokenEvent, Version

_TOKEN = Token(id=0)
_VERSION = attrgetter("version")


class Owner(Protocol):
    """Who hears of what the engine does."""

    def first_token(self, flight: Flight) -> None:
        """The prompt was read, and one token came."""

    def ended(self, flight: Flight, end: Finished | Failed) -> None:
        """Nothing follows."""

    def changed(self, plan: StepPlan) -> None:
        """Adapters are fetched, written or released."""


class Engine:
    """Serves flights from `submit` to `ended`.

    Invariant: a step goes on, or nothing is to be done; messages wait for the end of the step.
    """

    def __init__(self, site: Site, owner: Owner, turn: int) -> None:
        """Start empty. Of steps that end at one moment the one with the smaller turn ends first."""
        hardware = site.config.hardware
        self.scheduler = Scheduler(hardware.limits)
        self.timing = Timing(hardware, turn)
        self.flights: dict[str, Flight] = {}
        self.tokens: defaultdict[Version, int] = defaultdict(int)
        """Of prompts that came, and generated, since somebody emptied it."""
        self.busy_s = 0.0
        self._config, self._clock, self._owner, self._turn = site.config, site.clock, owner, turn
        self._inbox: deque[Action] = deque()
        self._is_between = False
        self._timer: Timer | None = None
        self._plan: StepPlan | None = None
        self._began_s = 0.0
        self._sequences: tuple[Sequence, ...] = ()
        """Of the plan's decoding, and of the plan before: what follows is worked out anew only where they change."""
        self._decoding: list[Flight] = []
        """Who gets a token in each step of the plan, besides its chunks."""
        self._versions: Mapping[Version, int] = {}
        """How many of them use each adapter."""
        self._ends: list[float] = []
        """Of the steps of the plan that are still to be taken."""

    def post(self, message: Action) -> None:
        """Have something done between two steps: at once where none goes on."""
        self._inbox.append(message)
        if self._is_between:
            return
        if self._timer is None:
            self._go_on()
        else:
            self._cut()

    def submit(self, flight: Flight, request: Request) -> None:
        """Take a request in; to be posted. Raises: what `Scheduler.add` does."""
        self.scheduler.add(request, self._clock.now_s)
        self.flights[request.id] = flight
        self.tokens[flight.version] += len(request.prompt)

    def cancel(self, request_id: str) -> bool:
        """Forget a request, to be posted; False if it is not here."""
        self.flights.pop(request_id, None)
        return self.scheduler.cancel(request_id)

    def stop(self) -> None:
        """Do nothing any more."""
        self.catch_up()
        if self._timer is not None:
            self._timer.cancel()
        self._ends = []
        self._is_between = True  # for ever: messages are taken by nobody

    def restart(self) -> None:
        """Count `busy_s` from now on."""
        self.catch_up()
        self.busy_s, self._began_s = 0.0, self._clock.now_s

    def catch_up(self) -> None:
        """Count the steps that have ended by now."""
        if num_steps := bisect_left(self._ends, self._clock.now_s):
            self._commit(num_steps)

    def _go_on(self) -> None:
        self._is_between = True
        while True:
            while self._inbox:
                self._inbox.popleft()()
            if self._begin():
                break
        self._is_between = False

    def _begin(self) -> bool:
        """Begin the next steps; False where there was only something to order."""
        now_s = self._clock.now_s
        plan = self.scheduler.plan(now_s, is_brief=self._config.leaps)
        if plan is None:
            self._timer = None
            return not self._inbox
        if plan.releases or plan.fetches or plan.writes:
            self._owner.changed(plan)
        for failed in plan.failed:
            self._owner.ended(self.flights.pop(failed.request_id), failed)
        if not (plan.chunks or plan.writes or plan.decoding):
            return False
        self._plan, self._began_s = plan, now_s
        sequences = plan.decoding.sequences if plan.decoding else ()
        if sequences != self._sequences:
            flights, self._sequences = self.flights, sequences
            self._decoding = [flights[sequence.request.id] for sequence in sequences]
            self._versions = Counter(map(_VERSION, self._decoding))
        self._ends = self.timing.ends_s(plan, self._versions, now_s)
        self._timer = self._clock.at(self._ends[-1], self._end, self._turn)
        return True

    def _end(self) -> None:
        self._commit(len(self._ends))
        self._go_on()

    def _commit(self, num_steps: int) -> None:
        """Take the next steps of the plan."""
        assert self._plan is not None, "there are steps to take"
        taken, self._ends = self._ends[:num_steps], self._ends[num_steps:]
        self.timing.took(num_steps)
        for end_s in taken:  # one by one, as floats are added up otherwise
            self.busy_s += end_s - self._began_s
            self._began_s = end_s
        for flight in self._decoding:
            flight.num_tokens += num_steps
        for version, count in self._versions.items():
            self.tokens[version] += count * num_steps
        if self._config.keeps_tokens:
            for flight in self._decoding:
                flight.token_s += taken
        tokens = {chunk.request.id: _TOKEN for chunk in self._plan.chunks if chunk.samples}
        for event in self.scheduler.commit(
            self._plan, tokens, taken[-1], num_steps=num_steps, goes_on=bool(self._ends)
        ):
            match event:
                case TokenEvent(request_id=request_id):
                    self._count(self.flights[request_id])
                case _:
                    self._owner.ended(self.flights.pop(event.request_id), event)

    def _count(self, flight: Flight) -> None:
        """Count the token that a flight has just got."""
        flight.num_tokens += 1
        self.tokens[flight.version] += 1
        if self._config.keeps_tokens:
            flight.token_s.append(self._clock.now_s)
        if flight.num_tokens == 1:
            self._owner.first_token(flight)

    def _cut(self) -> None:
        """End the plan with the step that goes on now."""
        place = bisect_left(self._ends, self._clock.now_s)
        if place + 1 < len(self._ends) and self._timer is not None:
            del self._ends[place + 1 :]
            self._timer.cancel()
            self._timer = self._clock.at(self._ends[-1], self._end, self._turn)
