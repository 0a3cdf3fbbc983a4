"""The loop of one replica, on the one thread that touches the device. Owns: order of work, host copies of adapters.

Does not: decide what a step computes (scheduler), compute it (runner), or know names, text and sockets.
Other threads post messages; the loop takes them in between two steps.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lorajax.adapter_pages import HostAdapter
from lorajax.batch import MAX_SET_PAGES
from lorajax.config import EngineConfig, EngineStats
from lorajax.errors import EngineFailure, LorajaxError, Overloaded, Unavailable, UnsupportedAdapter
from lorajax.limits import EngineLimits
from lorajax.plan import StepPlan
from lorajax.runner import Steps
from lorajax.scheduler import Scheduler
from lorajax.spec import Event, Failed, Finished, ModelSpec, Request, Token, Version

type Sink = Callable[[Event], None]
type ReadAdapter = Callable[[Path, Version], HostAdapter]
"""Reads an adapter again from its store, checking that it is still that version; blocks."""

_IDLE_WAIT_S = 0.05
"""How often an engine that only waits (for a fetch, say) looks at deadlines."""
_STATS_S = 0.1
"""Age that `stats` may have while steps follow one another."""
_ASK_S = 60.0
"""How long an order may wait for the step before it."""

_log = logging.getLogger(__name__)


class Engine:
    """Serves requests on its own thread from `start` to `stop`; every public call may come from any thread.

    Invariant: an accepted request gets exactly one Finished or Failed, unless it is cancelled first.
    A step that raises ends every request and the engine: its device state can no longer be trusted.
    """

    def __init__(
        self,
        model: ModelSpec,
        config: EngineConfig,
        runner: Steps,
        read_adapter: ReadAdapter,
        on_failure: Callable[[], None],
    ) -> None:
        """Wire the parts up; `on_failure` is called once, on the engine's thread, if a step raises."""
        self._limits = EngineLimits(
            config=config,
            num_kv_pages=runner.sizes.num_kv_pages,
            num_adapter_pages=runner.sizes.num_adapter_pages,
            max_model_len=model.max_model_len,
            stop_token_ids=model.stop_token_ids,
        )
        self._scheduler = Scheduler(self._limits)
        self._runner = runner
        self._read_adapter = read_adapter
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._sinks: dict[str, Sink] = {}
        self._adapters: dict[Version, HostAdapter] = {}
        self._sources: dict[Version, Path] = {}
        self._num_pages: dict[Version, int] = {}
        self._stats, self._stats_s = self._scheduler.stats(), 0.0
        self._is_stopping = False
        self._failure: EngineFailure | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adapter-reader")
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to serve; the runner's programs must be compiled."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop after the current step; requests that still run get no more events."""
        self._inbox.put(self._end)
        if self._thread.is_alive():
            self._thread.join()
        self._reader.shutdown(wait=True, cancel_futures=True)

    def submit(self, request: Request, sink: Sink) -> None:
        """Serve a request; `sink` gets its events on the engine's thread, Finished or Failed last.

        Raises: BadRequest if it could never fit, Overloaded if the queue is full, Unavailable if the engine failed.
        """
        if self._failure is not None:
            raise Unavailable(f"{self._failure}; this host is going down", retry_s=5.0)
        self._limits.check(request)
        max_queue = self._limits.config.max_queue
        if len(self._sinks) >= max_queue + self._limits.config.max_sequences:
            raise Overloaded(f"{len(self._sinks)} requests are in flight and max_queue is {max_queue}; try again")
        self._inbox.put(lambda: self._accept(request, sink))

    def cancel(self, request_id: str) -> None:
        """Free what the request holds before the next step; nothing happens where it has ended."""
        self._inbox.put(lambda: self._cancel(request_id))

    def finish(self, request_id: str) -> None:
        """End a request well before the next step, on a stop string: its sink gets Finished, unless it has ended."""
        self._inbox.put(lambda: self._finish(request_id))

    def add_adapter(self, adapter: HostAdapter, source: Path | None, *, pinned: bool) -> None:
        """Make the version servable; adding it again changes nothing but its source and pin.

        Raises: UnsupportedAdapter if it can never fit.
        """
        self._ask(lambda: self._add_adapter(adapter, source, pinned=pinned))

    def pin(self, version: Version, *, pinned: bool) -> None:
        """Keep the version on the device, or let it go. Raises: UnknownAdapter; UnsupportedAdapter without room."""
        residency = self._scheduler.residency
        self._ask(lambda: residency.pin(version) if pinned else residency.unpin(version))

    def remove_adapter(self, version: Version) -> None:
        """Forget the version; requests that use it end on it first."""
        self._ask(lambda: self._remove_adapter(version))

    def export(self, version: Version) -> HostAdapter | None:
        """The version's arrays, which nobody changes, where host memory has them."""
        return self._adapters.get(version)

    def stats(self) -> EngineStats:
        """What the engine holds and does, at most 0.1 s old, and no older than the last order that was carried out."""
        return self._stats

    # Everything below runs on the engine's thread, or on the caller's while the engine has no thread.

    def _ask(self, order: Callable[[], None]) -> None:
        """Have the loop carry an order out between two steps and raise here what it raises there."""
        if not self._thread.is_alive():
            order()
            self._refresh_stats()
            return
        answer: Future[None] = Future()

        def carry_out() -> None:
            if answer.cancelled():
                return  # who asked has given up, and must not be surprised by it later
            try:
                order()
            except LorajaxError as error:
                answer.set_exception(error)
            except Exception as error:
                answer.set_exception(error)
                raise
            else:
                self._refresh_stats()  # before the answer: who asked may look at once
                answer.set_result(None)

        self._inbox.put(carry_out)
        try:
            answer.result(_ASK_S)
        except TimeoutError:
            answer.cancel()
            raise Unavailable("the engine does not answer; this host may be going down", retry_s=5.0) from None

    def _loop(self) -> None:
        try:
            while not self._is_stopping:
                plan = self._scheduler.plan(time.monotonic())
                if plan is not None:
                    self._carry_out(plan)
                self._refresh_stats(is_idle=plan is None)
                self._take_messages(wait=plan is None)
        except Exception as error:  # noqa: BLE001  # the border of this thread: ends every request and the engine
            self._fail(error)
            # Who submitted before the failure was known waits for an answer, too.
            while not self._is_stopping:
                self._inbox.get()()

    def _take_messages(self, *, wait: bool) -> None:
        timeout_s = _IDLE_WAIT_S if self._sinks else None
        try:
            message = self._inbox.get(block=wait, timeout=timeout_s if wait else None)
            while True:
                message()
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _carry_out(self, plan: StepPlan) -> None:
        for release in plan.releases:
            self._adapters.pop(release.version, None)
        for fetch in plan.fetches:
            self._reader.submit(self._fetch, fetch.version, self._sources[fetch.version])
        self._runner.write(plan.writes, self._adapters)
        self._emit(*plan.failed)
        tokens: dict[str, Token] = {}
        for request_id, token in self._runner.run(plan).items():
            if token is not None:
                tokens[request_id] = token
            elif self._scheduler.cancel(request_id):
                error = EngineFailure("the output is not finite; check its adapters, or serve in a wider dtype")
                self._emit(Failed(request_id=request_id, error=error))
        self._emit(*self._scheduler.commit(plan, tokens, time.monotonic()))

    def _emit(self, *events: Event) -> None:
        for event in events:
            ends = isinstance(event, Finished | Failed)
            sink = self._sinks.pop(event.request_id, None) if ends else self._sinks.get(event.request_id)
            if sink is not None:
                sink(event)

    def _accept(self, request: Request, sink: Sink) -> None:
        try:
            if self._failure is not None:
                raise self._failure
            self._check_set(request)
            self._scheduler.add(request, time.monotonic())
        except LorajaxError as error:
            # Not by `_emit`: a running request of the same id keeps its own sink.
            sink(Failed(request_id=request.id, error=error))
        else:
            self._sinks[request.id] = sink

    def _check_set(self, request: Request) -> None:
        num_pages = sum(self._num_pages.get(version, 0) for version, _ in request.adapters)
        if num_pages > MAX_SET_PAGES:
            raise UnsupportedAdapter(
                f"the ranks of this set take {num_pages} pages, one request may use {MAX_SET_PAGES}; name fewer"
            )

    def _cancel(self, request_id: str) -> None:
        self._scheduler.cancel(request_id)
        self._sinks.pop(request_id, None)

    def _finish(self, request_id: str) -> None:
        if (finished := self._scheduler.finish(request_id, time.monotonic())) is not None:
            self._emit(finished)

    def _add_adapter(self, adapter: HostAdapter, source: Path | None, *, pinned: bool) -> None:
        version, residency = adapter.spec.version, self._scheduler.residency
        num_total = self._limits.num_adapter_pages - 1
        if adapter.spec.num_pages > num_total:
            raise UnsupportedAdapter(
                f"rank {adapter.spec.rank} takes {adapter.spec.num_pages} pages, the device pool has {num_total}; "
                "raise --adapter-bytes"
            )
        is_new = version not in residency.levels()
        residency.register(adapter.spec, has_store=source is not None)
        self._num_pages[version] = adapter.spec.num_pages
        self._adapters[version] = adapter
        if source is not None:
            self._sources[version] = source
        residency.adapter_fetched(version)
        if pinned:
            try:
                residency.pin(version)
            except UnsupportedAdapter:
                if is_new:
                    self._remove_adapter(version)
                raise

    def _remove_adapter(self, version: Version) -> None:
        residency = self._scheduler.residency
        residency.remove(version)
        # A removed one that requests still use may have to be fetched for them: it is forgotten by a later removal.
        for gone in self._num_pages.keys() - residency.levels().keys():
            del self._num_pages[gone]
            self._sources.pop(gone, None)

    def _fetch(self, version: Version, source: Path) -> None:
        """On the reader's thread: read a version from its store and post what came of it."""
        try:
            adapter = self._read_adapter(source, version)
        except LorajaxError as error:
            refusal = error
            self._inbox.put(lambda: self._emit(*self._scheduler.fetch_failed(version, refusal)))
        except Exception as error:  # noqa: BLE001  # the border of this thread: ends the requests that wait for it
            _log.exception("reading adapter %s", version[:12])
            failure = EngineFailure(f"reading adapter {version[:12]} failed: {type(error).__name__}")
            self._inbox.put(lambda: self._emit(*self._scheduler.fetch_failed(version, failure)))
        else:
            self._inbox.put(lambda: self._fetched(version, adapter))

    def _fetched(self, version: Version, adapter: HostAdapter) -> None:
        self._adapters[version] = adapter
        self._scheduler.adapter_fetched(version)

    def _refresh_stats(self, *, is_idle: bool = True) -> None:
        now_s = time.monotonic()
        if is_idle or now_s - self._stats_s >= _STATS_S:
            self._stats, self._stats_s = self._scheduler.stats(), now_s

    def _end(self) -> None:
        self._is_stopping = True

    def _fail(self, error: Exception) -> None:
        _log.critical("a step failed; the engine ends", exc_info=error)
        self._failure = EngineFailure(f"a step failed: {type(error).__name__}")
        for request_id in list(self._sinks):
            self._emit(Failed(request_id=request_id, error=self._failure))
        self._on_failure()
