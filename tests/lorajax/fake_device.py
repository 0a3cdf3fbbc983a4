"""A device of dictionaries under the real scheduler.

Owns: what every page holds, and the check that each chunk reads its own. Does not: know how pages are chosen.

Its model: the state of a position is a hash of the adapter set and all tokens so far, kept in the KV page of the
position; the next token is that state modulo the vocabulary. So any wrong page, stale page or lost position changes
every later token.
"""

from hashlib import sha256
from itertools import groupby

from lorajax.config import EngineConfig
from lorajax.errors import LorajaxError
from lorajax.limits import EngineLimits
from lorajax.plan import Chunk, StepPlan
from lorajax.scheduler import Scheduler
from lorajax.spec import (
    AdapterSpec,
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    Sampling,
    Token,
    TokenEvent,
    Version,
)

VOCAB = 50
STOP = 7


def limits(**changes):
    sizes = {"num_kv_pages": 13, "num_adapter_pages": 9, "max_model_len": 64, "stop_token_ids": (STOP,)}
    sizes |= {name: changes.pop(name) for name in list(changes) if name in sizes}
    config = {
        "max_batch_tokens": 8,
        "max_sequences": 4,
        "max_queue": 64,
        "kv_page_tokens": 4,
        "page_writes_per_step": 2,
    }
    config |= {"host_adapter_bytes": 1000}
    return EngineLimits(config=EngineConfig(kv_bytes=1, adapter_bytes=1, **config | changes), **sizes)


def adapter(name, num_pages=1, num_bytes=None):
    num_bytes = num_pages * 10 if num_bytes is None else num_bytes
    return AdapterSpec(version=Version(name), rank=8 * num_pages, targets=("q_proj",), num_bytes=num_bytes)


def request(name, *adapters, prompt=(1, 2, 3), max_tokens=4, priority=0, deadline_s=None, **sampling):
    return Request(
        id=name,
        prompt=tuple(prompt),
        sampling=Sampling(max_tokens=max_tokens, **sampling),
        adapters=tuple((Version(a), 1.0) if isinstance(a, str) else a for a in adapters),
        priority=priority,
        deadline_s=deadline_s,
    )


def _state(before, token):
    return sha256(f"{before}:{token}".encode()).hexdigest()


def _states(adapters, tokens):
    state = str(sorted(adapters))
    states = [state := _state(state, token) for token in tokens]
    return states


def _next_token(state):
    return int(state, 16) % VOCAB


def answer(request):
    """Tokens delivered and the finish reason of a request alone: the slow, obvious way."""
    tokens, sampling = list(request.prompt), request.sampling
    for _ in range(sampling.max_tokens):
        token = _next_token(_states(request.adapters, tokens)[-1])
        if token in sampling.stop_token_ids or (token == STOP and not sampling.ignore_eos):
            return tokens[len(request.prompt) :], FinishReason.STOP
        tokens.append(token)
    return tokens[len(request.prompt) :], FinishReason.LENGTH


class World:
    """Scheduler, device, host memory and store together, stepped by hand; every step is checked."""

    def __init__(self, engine_limits=None):
        self.limits = engine_limits or limits()
        self.scheduler = Scheduler(self.limits)
        self.specs, self.in_host, self.fetching = {}, set(), []
        self.kv, self.adapter_page = {}, {}
        self.requests, self.delivered, self.ended = {}, {}, {}
        self.started = []
        self.now_s = 0.0
        self.last_plan = None

    def register(self, spec, has_store=True):
        self.specs[spec.version] = spec
        self.scheduler.residency.register(spec, has_store=has_store)
        if not has_store:
            self.in_host.add(spec.version)

    def add(self, asked):
        self.scheduler.add(asked, self.now_s)
        assert asked.id not in self.requests
        self.requests[asked.id], self.delivered[asked.id] = asked, []

    def cancel(self, request_id):
        if self.scheduler.cancel(request_id):
            self._end(request_id, "cancelled")

    def fetch(self, index=0):
        version = self.fetching.pop(index)
        self.in_host.add(version)
        self.scheduler.adapter_fetched(version)

    def fail_fetch(self, index=0):
        version = self.fetching.pop(index)
        self._take_in(self.scheduler.fetch_failed(version, LorajaxError("the store is gone")))

    def plan(self):
        """Make one plan and carry it out; returns its tokens, or None where there is nothing to do."""
        self.last_plan = plan = self.scheduler.plan(self.now_s)
        if plan is None:
            return None
        self._move(plan)
        self._take_in(plan.failed)
        self._check_shape(plan)
        computed = [(chunk, Token(id=self._compute(chunk))) for chunk in plan.chunks]
        return {chunk.request.id: token for chunk, token in computed if chunk.samples}

    def commit(self, tokens):
        self._take_in(self.scheduler.commit(self.last_plan, tokens, self.now_s))

    def step(self):
        """Plan, compute and commit; returns the plan."""
        tokens = self.plan()
        self.now_s += 1.0
        if tokens is not None:
            self.commit(tokens)
        return self.last_plan

    def run(self, max_steps=2000):
        """Step until nothing is left, fetching at once what is asked for."""
        for _ in range(max_steps):
            if self.step() is None and not self.fetching:
                return
            while self.fetching:
                self.fetch()
        raise AssertionError(f"still busy after {max_steps} steps: {self.scheduler.stats()}")

    def live(self):
        return [request_id for request_id in self.requests if request_id not in self.ended]

    def _move(self, plan: StepPlan):
        for release in plan.releases:
            self.in_host.remove(release.version)
        for fetch in plan.fetches:
            assert fetch.version not in self.fetching
            assert fetch.version not in self.in_host
            self.fetching.append(fetch.version)
        assert len(plan.writes) <= self.limits.config.page_writes_per_step
        assert len({write.page for write in plan.writes}) == len(plan.writes)
        for write in plan.writes:
            assert 0 < write.page < self.limits.num_adapter_pages
            assert write.version in self.in_host, "written from arrays that are not there"
            self.adapter_page[write.page] = (write.version, write.index)

    def _check_shape(self, plan: StepPlan):
        config = self.limits.config
        assert len(plan.chunks) <= config.max_sequences
        assert sum(len(chunk.tokens) for chunk in plan.chunks) <= config.max_batch_tokens
        pages = [page for chunk in plan.chunks for page in chunk.kv_pages]
        assert len(set(pages)) == len(pages), "a KV page with two owners"
        assert all(0 < page < self.limits.num_kv_pages for page in pages)
        runs = [adapter_pages for adapter_pages, _ in groupby(plan.chunks, key=lambda chunk: chunk.adapter_pages)]
        assert len(set(runs)) == len(runs), "a run in two places"
        assert () not in runs[1:], "base is not first"

    def _compute(self, chunk: Chunk) -> int:
        asked = chunk.request
        if asked.id not in self.started:
            self.started.append(asked.id)
        wanted = [(Version(v), i, w) for v, w in sorted(asked.adapters) for i in range(self.specs[v].num_pages)]
        assert [(*self.adapter_page[page], weight) for page, weight in chunk.adapter_pages] == wanted
        tokens, end = [*asked.prompt, *self.delivered[asked.id]], chunk.start + len(chunk.tokens)
        assert tuple(tokens[chunk.start : end]) == chunk.tokens
        assert chunk.samples == (end == len(tokens))
        assert chunk.num_output == len(self.delivered[asked.id])
        assert chunk.output == (tuple(self.delivered[asked.id]) if asked.sampling.has_penalties else ())
        size = self.limits.config.kv_page_tokens
        place = lambda position: (chunk.kv_pages[position // size], position % size)
        state = self.kv[place(chunk.start - 1)] if chunk.start else str(sorted(asked.adapters))
        for position, token in enumerate(chunk.tokens, chunk.start):
            state = self.kv[place(position)] = _state(state, token)
        assert [self.kv[place(position)] for position in range(end)] == _states(asked.adapters, tokens[:end])
        return _next_token(state)

    def _take_in(self, events: list[Event]):
        for event in events:
            assert event.request_id not in self.ended, "an event after the end"
            match event:
                case TokenEvent(request_id=request_id, token=token):
                    self.delivered[request_id].append(token.id)
                case Finished(request_id=request_id, reason=reason) as finished:
                    assert (self.delivered[request_id], reason) == answer(self.requests[request_id])
                    assert finished.num_completion_tokens == len(self.delivered[request_id]) + (reason == "stop")
                    timing = finished.timing
                    parts = timing.adapter_wait_s + timing.queue_s + timing.prefill_s
                    assert parts == timing.first_token_s <= timing.total_s
                    assert min(timing.adapter_wait_s, timing.queue_s, timing.prefill_s) >= 0
                    self._end(request_id, finished)
                case Failed(request_id=request_id, error=error):
                    assert isinstance(error, LorajaxError)
                    self._end(request_id, error)

    def _end(self, request_id, how):
        assert request_id not in self.ended, "two ends"
        self.ended[request_id] = how


LONG = {"max_tokens": 20, "ignore_eos": True}


def world(*specs, **changes):
    made = World(limits(**changes))
    for spec in specs:
        made.register(spec)
    return made


def fed(plan):
    """Tokens fed by request id, in chunk order."""
    return {chunk.request.id: len(chunk.tokens) for chunk in plan.chunks}
