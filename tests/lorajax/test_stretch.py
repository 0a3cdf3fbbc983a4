"""Brief plans, and steps committed at once, against the scheduler's own steps one by one."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lorajax.scheduler import Scheduler
from lorajax.spec import Finished, Token
from tests.lorajax.fake_device import adapter, limits, request

PAGES = {"a": 1, "b": 2, "c": 3}
ASKS = st.lists(
    st.tuples(
        st.integers(0, 60),  # when
        st.integers(1, 20),  # prompt
        st.integers(1, 20),  # answer
        st.lists(st.sampled_from(sorted(PAGES)), max_size=2, unique=True),
        st.sampled_from((0, 0, 1)),  # priority
    ),
    min_size=1,
    max_size=20,
).map(sorted)
LIMITS = st.builds(
    limits,
    num_kv_pages=st.integers(11, 40),
    num_adapter_pages=st.integers(6, 10),
    max_batch_tokens=st.sampled_from((4, 8, 32)),
    host_adapter_bytes=st.just(1000),
)
CUTS = st.lists(st.integers(1, 80), max_size=10).map(sorted)
"""When somebody looks at it while steps go on."""


class Told:
    """A scheduler whose steps take 1 s; requests are told to it between steps."""

    def __init__(self, asks, engine_limits, *, is_brief):
        self.scheduler = Scheduler(engine_limits)
        self.asks, self.is_brief = list(asks), is_brief
        self.finished, self.now_s, self.plan, self.left = [], 0, None, 0
        for name, num_pages in PAGES.items():
            self.scheduler.residency.register(adapter(name, num_pages), has_store=True)
            self.scheduler.adapter_fetched(adapter(name).version)

    def until(self, when_s):
        """Take the steps that end by then, and begin the next."""
        while True:
            if not self.left:
                self._begin()
            if self.now_s == when_s:
                return
            next_s = min([when_s, *(asked[0] for asked in self.asks[:1] if asked[0] > self.now_s)])
            num_steps = min(self.left, max(1, next_s - self.now_s))
            self.left -= num_steps
            self.now_s += num_steps
            if self.plan is not None:
                is_told = bool(self.asks) and self.asks[0][0] <= self.now_s
                self.left = 0 if is_told else self.left
                self._commit(num_steps)

    def _begin(self):
        while self.asks and self.asks[0][0] <= self.now_s:
            _, num_prompt, max_tokens, adapters, priority = self.asks.pop(0)
            asked = request(
                f"{len(self.asks)}", *adapters, prompt=(1,) * num_prompt, max_tokens=max_tokens, priority=priority
            )
            asked = replace(asked, sampling=replace(asked.sampling, ignore_eos=True))
            self.scheduler.add(asked, self.now_s)
        self.plan = self.scheduler.plan(self.now_s, is_brief=self.is_brief)
        self.left = 1 if self.plan is None else self.plan.num_steps

    def _commit(self, num_steps):
        tokens = {chunk.request.id: Token(id=1) for chunk in self.plan.chunks}
        options = {"num_steps": num_steps, "goes_on": self.left > 0}
        for event in self.scheduler.commit(self.plan, tokens, self.now_s, **options):
            if isinstance(event, Finished):
                self.finished.append(event)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(ASKS, LIMITS, CUTS)
def test_steps_taken_at_once_lead_where_steps_one_by_one_lead(asks, engine_limits, cuts):
    brief, plain = (Told(asks, engine_limits, is_brief=is_brief) for is_brief in (True, False))
    for when_s in (*cuts, 600):
        brief.until(when_s)
        plain.until(when_s)
        assert brief.finished == plain.finished
        assert brief.scheduler.stats() == plain.scheduler.stats()
    assert len(plain.finished) == len(asks)


def test_a_step_that_reads_a_prompt_stands_for_itself_alone():
    told = Told([(0, 3, 6, ["b"], 0), (2, 3, 9, [], 0)], limits(), is_brief=True)
    told.until(2)
    assert (len(told.plan.chunks), len(told.plan.decoding.sequences)) == (1, 1)
    assert told.plan.num_steps == 1


def test_steps_that_only_decode_stand_for_all_up_to_the_first_end():
    told = Told([(0, 3, 6, ["b"], 0), (2, 3, 9, [], 0)], limits(), is_brief=True)
    told.until(3)
    assert (told.plan.chunks, told.plan.num_steps) == ((), 3)
