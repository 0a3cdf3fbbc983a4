"""Which tokens every step computes: continuous batching with chunked prefill, over adapters that come and go.

Owns: the queue, the running sequences, the KV pages, and one terminal event for every accepted request. Does not: know
JAX, time or threads; hold arrays; look at text.

Policy, every step:
1. Whoever runs goes first, by (priority, arrival): one token for each that decodes, then prompts within the budget,
   which is small where something decodes: a long prompt delays the running streams by one small chunk a step. Who
   finds no KV page takes those of the last in that order, which goes back to the queue, or else waits.
2. Then the queue, by priority, arrival and the share that its adapter has of what is here (shares.py). A request starts
   when its adapters are on the device and the KV of its tokens has room; one that is ready but has no place lets nobody
   pass. Where an adapter has a large share, its requests wait for room besides, and let others pass.
3. One that waits for adapters lets others pass. If its pages are reserved it only waits for the copy. If there is no
   room for them, at most MAX_OVERTAKES later requests with adapters start before it; then only base requests pass,
   which hold nothing it needs, so what runs drains and its pages come.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import count
from operator import attrgetter

from lorajax.config import EngineStats
from lorajax.errors import BadRequest, DeadlineExceeded, LorajaxError, Overloaded
from lorajax.limits import EngineLimits
from lorajax.pages import PagePool
from lorajax.plan import Chunk, StepPlan, chunk_of
from lorajax.residency import Residency, Standing
from lorajax.sequence import Sequence, discard, insert, overtake
from lorajax.shares import Shares
from lorajax.spec import Event, Failed, Finished, FinishReason, Request, Token, TokenEvent, Version
from lorajax.stretch import Stretch, advance, stretch_of

MAX_OVERTAKES = 32
"""Later requests with adapters that may start before one whose own adapters find no room."""

LOOKAHEAD = 64
"""Waiting requests looked at in one step: bounds the work of a step, and how far ahead adapters are loaded."""


_RUN = attrgetter("adapter_pages")


class Scheduler:
    """Plans steps and turns their tokens into events: `plan`, carry it out, `commit`, and again.

    Invariant: an accepted request is waiting or running until its one terminal event or its cancellation; only running
    ones hold KV pages. Adapters are registered, pinned and removed on `residency`.
    Owner: the engine thread. Not thread-safe.
    """

    def __init__(self, limits: EngineLimits) -> None:
        """Start empty."""
        config = limits.config
        self.residency = Residency(limits.num_adapter_pages, config.host_adapter_bytes, config.page_writes_per_step)
        self._limits = limits
        self._config = config
        self._kv = PagePool(limits.num_kv_pages)
        self._shares = Shares()
        self._arrivals = count()
        self._sequences: dict[str, Sequence] = {}
        # Both by (priority, arrival).
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._number = self._num_steps = self._num_tokens = self._num_preemptions = 0

    def add(self, request: Request, now_s: float) -> None:
        """Accept a request into the queue.

        Raises: BadRequest or UnsupportedAdapter if it could never be served; UnknownAdapter; Overloaded.
        """
        self._check(request)
        sequence = Sequence(request=request, arrival=next(self._arrivals), submitted_s=now_s)
        sequence.observe_adapters(are_ready=self.residency.is_ready(sequence.versions), now_s=now_s)
        self.residency.join(sequence.versions)
        self._shares.join(sequence)
        self._sequences[request.id] = sequence
        insert(self._waiting, sequence)

    def cancel(self, request_id: str) -> bool:
        """Drop a request without an event and free its pages at once; False if it has ended already."""
        if (sequence := self._sequences.get(request_id)) is not None:
            self._end(sequence)
        return sequence is not None

    def finish(self, request_id: str, now_s: float) -> Finished | None:
        """End a request well before the model does, on a stop string; None if it has ended already."""
        sequence = self._sequences.get(request_id)
        return None if sequence is None else self._finish(sequence, FinishReason.STOP, now_s)

    def adapter_fetched(self, version: Version) -> None:
        """Note that an adapter's arrays are in host memory."""
        self.residency.adapter_fetched(version)

    def fetch_failed(self, version: Version, error: LorajaxError) -> list[Failed]:
        """Fail the requests that wait for this adapter; what runs is untouched."""
        if not self.residency.fetch_failed(version):
            return []
        return [self._fail(sequence, error) for sequence in self._waiting[:] if version in sequence.versions]

    def plan(self, now_s: float, *, is_brief: bool = False) -> StepPlan | None:
        """Decide the next step; None if there is nothing to do until something arrives.

        A brief plan spells out no chunks of sequences that only decode: nobody is to compute them.
        """
        expired = [sequence for sequence in self._sequences.values() if sequence.is_expired(now_s)]
        failed = [self._fail(sequence, DeadlineExceeded("the deadline passed; allow more")) for sequence in expired]
        decoding = stretch_of(self._running, self._limits, self._kv) if is_brief else None
        chunks, budget = self._extend_running(decoding)
        started, misfits = self._start_waiting(budget, now_s)
        chunks += started
        failed += misfits
        releases, fetches, writes = self.residency.take_orders()
        if not (chunks or decoding or writes or fetches or releases or failed):
            return None
        self._number += 1
        return StepPlan(
            number=self._number,
            chunks=tuple(sorted(chunks, key=lambda chunk: (chunk.adapter_pages, len(chunk.tokens) > 1))),
            writes=writes,
            fetches=fetches,
            releases=releases,
            failed=tuple(failed),
            decoding=decoding,
        )

    def commit(
        self, plan: StepPlan, tokens: Mapping[str, Token], now_s: float, *, num_steps: int = 1, goes_on: bool = False
    ) -> list[Event]:
        """Take in the sampled tokens of the latest plan, by request id; requests that ended meanwhile are skipped.

        A stop token ends the completion: it counts as a completion token but is not delivered as a TokenEvent. Nor is
        what a brief plan decodes; of the steps that one stands for, some may be committed while it `goes_on`.
        """
        assert plan.number == self._number, f"plan {plan.number} committed after plan {self._number}"
        self._num_steps += num_steps if plan.chunks or plan.decoding else 0
        events, ended = list[Event](), list[Sequence]()
        if plan.decoding:
            self._num_tokens += num_steps * len(plan.decoding.sequences)
            ended = advance(plan.decoding, self._limits, self._kv, num_steps, goes_on=goes_on)
        turns: Iterable[Sequence | Chunk] = sorted((*ended, *plan.chunks), key=_RUN) if ended else plan.chunks
        for turn in turns:
            if isinstance(turn, Sequence):
                events.append(self._finish(turn, FinishReason.LENGTH, now_s))
                continue
            sequence = self._sequences.get(turn.request.id)
            if sequence is None or not sequence.is_running:
                continue
            sequence.num_cached = turn.start + len(turn.tokens)
            if turn.samples:
                events += self._accept(sequence, tokens[turn.request.id], now_s)
        return events

    def stats(self) -> EngineStats:
        """Count what there is; `num_tokens` are the generated ones, pages exclude page 0."""
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            kv_pages_free=self._kv.num_free,
            kv_pages_total=self._kv.num_total,
            adapter_pages_free=self.residency.num_free_pages,
            adapter_pages_total=self.residency.num_total_pages,
            residency=self.residency.levels(),
            num_steps=self._num_steps,
            num_tokens=self._num_tokens,
            num_preemptions=self._num_preemptions,
            adapter_loads=self.residency.num_loads,
        )

    def _check(self, request: Request) -> None:
        """Refuse what could never be served, then what cannot be taken now."""
        if request.id in self._sequences:
            raise BadRequest(f"request {request.id} is being served already; use another id", field="request_id")
        self._limits.check(request)
        versions = [version for version, _ in request.adapters]
        self.residency.check_known(versions)
        if (error := self.residency.misfit(versions)) is not None:
            raise error
        if len(self._waiting) >= self._config.max_queue:
            raise Overloaded(f"{len(self._waiting)} requests are waiting and max_queue is {self._config.max_queue}")

    def _extend_running(self, decoding: Stretch | None) -> tuple[list[Chunk], int]:
        """Chunks of the running, but for those that need none, and what they leave of the token budget."""
        chunks = []
        running = self._running[:] if decoding is None else decoding.others
        num_decoding = sum(sequence.num_uncached == 1 for sequence in running)
        num_decoding += 0 if decoding is None else len(decoding.sequences)
        most = self._config.interleaved_tokens if num_decoding else self._config.max_batch_tokens
        budget = min(most, self._config.max_batch_tokens - num_decoding)
        for sequence in running:
            is_decoding = sequence.num_uncached == 1
            # Not running any more: preempted by one before it in this loop.
            if not sequence.is_running or not (is_decoding or budget):
                continue
            if (chunk := self._chunk(sequence, 1 if is_decoding else budget)) is not None:
                chunks.append(chunk)
                budget -= 0 if is_decoding else len(chunk.tokens)
        return chunks, budget

    def _start_waiting(self, budget: int, now_s: float) -> tuple[list[Chunk], list[Failed]]:
        """Start what may start and load adapters for the rest; also returns what can no longer be served."""
        if not (self._waiting or self.residency.has_pins):
            return [], []
        chunks: list[Chunk] = []
        failed: list[Failed] = []
        short: list[Sequence] = []
        is_full, least_priority = False, -math.inf
        is_barred = not self.residency.begin({version for sequence in self._running for version in sequence.versions})
        for sequence in self._shares.in_turn(self._waiting, LOOKAHEAD):
            if is_barred and sequence.versions:
                continue
            standing = self.residency.claim(sequence.versions)
            sequence.observe_adapters(are_ready=standing is Standing.READY, now_s=now_s)
            if standing is Standing.SHORT:
                # A pin made after the request was accepted may have taken its room for good.
                if (error := self.residency.misfit(sequence.versions)) is not None:
                    failed.append(self._fail(sequence, error))
                    continue
                short.append(sequence)
                sequence.was_short = True
                is_barred = sequence.num_overtaken >= MAX_OVERTAKES
            elif standing is Standing.READY and not is_full:
                if is_full := sequence.request.priority < least_priority or not self._has_place(sequence, budget):
                    continue
                if self._shares.must_yield(sequence, self._kv):
                    least_priority = sequence.request.priority
                    continue
                chunks.append(chunk := self._start(sequence, budget, now_s))
                budget -= len(chunk.tokens)
                if sequence.versions:
                    is_barred = overtake(short) >= MAX_OVERTAKES
        return chunks, failed

    def _has_place(self, sequence: Sequence, budget: int) -> bool:
        """Whether it can start now. All its tokens must find room: who starts on less soon stalls or evicts others."""
        has_room = self._limits.num_kv_pages_of(len(sequence.tokens)) <= self._kv.num_free
        return has_room and budget > 0 and len(self._running) < self._config.max_sequences

    def _start(self, sequence: Sequence, budget: int, now_s: float) -> Chunk:
        discard(self._waiting, sequence)
        insert(self._running, sequence)
        if sequence.scheduled_s is None:
            sequence.scheduled_s = now_s
        sequence.adapter_pages = tuple(
            (page, weight) for version, weight in sequence.adapters for page in self.residency.pages(version)
        )
        chunk = self._chunk(sequence, budget)
        assert chunk is not None, "a place without a free page"
        return chunk

    def _chunk(self, sequence: Sequence, max_tokens: int) -> Chunk | None:
        """Its next tokens and the pages for them, as far as there are pages; None if it must wait for one."""
        page_tokens, start = self._config.kv_page_tokens, sequence.num_cached
        wanted = start + min(sequence.num_uncached, max_tokens)
        # Last first: the newest has the least finished work to lose.
        is_full = len(sequence.pages) * page_tokens == start
        while is_full and not self._kv.num_free and self._running[-1] is not sequence:
            self._preempt(self._running[-1])
        if (num_missing := self._limits.num_kv_pages_of(wanted) - len(sequence.pages)) > 0:
            sequence.pages += self._kv.take(min(num_missing, self._kv.num_free))
        end = min(wanted, len(sequence.pages) * page_tokens)
        if end == start:
            return None
        return chunk_of(sequence, end)

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue without its pages; its tokens are prefilled again, and the next token is the same."""
        discard(self._running, sequence)
        self._kv.give_back(sequence.rewind())
        insert(self._waiting, sequence)
        self._num_preemptions += 1

    def _accept(self, sequence: Sequence, token: Token, now_s: float) -> list[Event]:
        reason = sequence.append(token.id, self._limits.stop_token_ids, now_s)
        self._num_tokens += 1
        delivered = TokenEvent(request_id=sequence.request.id, token=token)
        events: list[Event] = [] if reason is FinishReason.STOP else [delivered]
        return events if reason is None else [*events, self._finish(sequence, reason, now_s)]

    def _finish(self, sequence: Sequence, reason: FinishReason, now_s: float) -> Finished:
        self._end(sequence)
        return Finished(
            request_id=sequence.request.id,
            reason=reason,
            num_prompt_tokens=len(sequence.request.prompt),
            num_completion_tokens=sequence.num_output,
            timing=sequence.timing(now_s),
        )

    def _fail(self, sequence: Sequence, error: LorajaxError) -> Failed:
        self._end(sequence)
        return Failed(request_id=sequence.request.id, error=error)

    def _end(self, sequence: Sequence) -> None:
        """Forget it and free what it holds."""
        discard(self._running if sequence.is_running else self._waiting, sequence)
        self._kv.give_back(sequence.rewind())
        del self._sequences[sequence.request.id]
        self.residency.leave(sequence.versions)
        self._shares.leave(sequence)
