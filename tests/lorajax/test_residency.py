import pytest

from lorajax.errors import UnknownAdapter, UnsupportedAdapter
from lorajax.plan import Fetch, PageWrite, Release
from lorajax.residency import Residency, Standing
from lorajax.spec import Level
from tests.lorajax.fake_device import adapter


def residency(*specs, num_pages=5, host_bytes=1000, writes=4, has_store=False):
    """Adapters in host memory, unless they have a store, and a device pool of four pages."""
    made = Residency(num_pages, host_bytes, writes)
    for spec in specs:
        made.register(spec, has_store=has_store)
    return made


def load(made, *names):
    """One round that loads these; returns how each stands."""
    made.begin(set())
    standings = [made.claim((name,)) for name in names]
    made.take_orders()
    return standings


def test_adapter_goes_from_store_to_host_to_device():
    made = residency(adapter("a"), has_store=True)
    made.begin(set())
    assert made.claim(("a",)) is Standing.LOADING
    assert made.take_orders() == ((), (Fetch(version="a"),), ())
    assert made.levels() == {"a": Level.STORE}
    made.adapter_fetched("a")
    assert made.levels() == {"a": Level.HOST}
    made.begin(set())
    assert made.claim(("a",)) is Standing.READY
    (page,) = made.pages("a")
    assert made.take_orders() == ((), (), (PageWrite(version="a", index=0, page=page),))
    assert made.levels() == {"a": Level.DEVICE}


def test_fetch_is_asked_for_once():
    made = residency(adapter("a"), has_store=True)
    made.begin(set())
    made.claim(("a",))
    made.take_orders()
    made.begin(set())
    made.claim(("a",))
    assert made.take_orders() == ((), (), ())


def test_large_adapter_is_written_over_several_steps():
    made = residency(adapter("a", 4), writes=3)
    assert [load(made, "a"), load(made, "a")] == [[Standing.LOADING], [Standing.READY]]


def test_page_writes_of_one_step_are_shared_by_all():
    made = residency(adapter("a", 2), adapter("b", 2), writes=3)
    made.begin(set())
    assert [made.claim(("a",)), made.claim(("b",))] == [Standing.READY, Standing.LOADING]
    assert len(made.take_orders()[2]) == 3


def test_least_recently_used_adapter_is_evicted():
    made = residency(adapter("a", 2), adapter("b", 2), adapter("c"))
    load(made, "a", "b")
    made.join(("a",))
    made.leave(("a",))
    load(made, "c")
    assert made.levels() == {"a": Level.DEVICE, "b": Level.HOST, "c": Level.DEVICE}


def test_running_adapter_is_never_evicted():
    made = residency(adapter("a", 2), adapter("b", 4))
    load(made, "a")
    made.begin({"a"})
    assert made.claim(("b",)) is Standing.SHORT
    assert made.levels()["a"] is Level.DEVICE


def test_pinned_adapter_is_never_evicted():
    made = residency(adapter("a", 2), adapter("b", 3))
    made.pin("a")
    assert load(made, "b") == [Standing.SHORT]
    made.unpin("a")
    assert load(made, "b") == [Standing.READY]


def test_pin_loads_the_adapter_without_a_request():
    made = residency(adapter("a"))
    made.pin("a")
    made.begin(set())
    assert made.levels()["a"] is Level.DEVICE


def test_pins_beyond_the_pool_are_refused_with_numbers():
    made = residency(adapter("a", 3), adapter("b", 2))
    made.pin("a")
    with pytest.raises(UnsupportedAdapter, match=r"need 2 device pages; 1 of 4 can be had, 3 are pinned"):
        made.pin("b")


def test_set_of_adapters_gets_all_its_pages_or_none():
    made = residency(adapter("a", 2), adapter("b", 2), adapter("c"))
    load(made, "c")
    made.begin({"c"})
    assert made.claim(("a", "b")) is Standing.SHORT
    assert (made.pages("a"), made.pages("b")) == ((), ())


def test_claim_is_safe_from_later_claims_of_the_round():
    made = residency(adapter("a", 2), adapter("b", 2), adapter("c", 1))
    assert load(made, "a", "b", "c") == [Standing.READY, Standing.READY, Standing.SHORT]


def test_reserved_pages_go_to_whoever_claims_first_next_round():
    made = residency(adapter("a", 4), has_store=True)
    made.register(adapter("b", 4), has_store=False)
    load(made, "a")
    assert load(made, "b", "a") == [Standing.READY, Standing.SHORT]


def test_host_memory_drops_the_least_recently_used_copy():
    made = residency(adapter("a"), adapter("b"), adapter("c"), host_bytes=20, has_store=True)
    for name in ("a", "b", "c"):
        made.adapter_fetched(name)
    assert made.take_orders()[0] == (Release(version="a"),)
    assert made.levels()["a"] is Level.STORE


def test_last_copy_is_never_dropped_from_host_memory():
    made = residency(adapter("a"), host_bytes=10)
    made.register(adapter("b"), has_store=True)
    made.adapter_fetched("b")
    assert made.levels() == {"a": Level.HOST, "b": Level.STORE}


def test_last_copies_beyond_host_memory_are_refused_with_numbers():
    made = residency(adapter("a"), host_bytes=15)
    with pytest.raises(UnsupportedAdapter, match=r"needs 10 bytes.*10 of 15 are taken"):
        made.register(adapter("b"), has_store=False)


def test_copy_being_written_is_not_dropped_from_host_memory():
    made = residency(adapter("a", 2), adapter("b"), host_bytes=10, writes=1, has_store=True)
    load(made, "a")
    made.adapter_fetched("a")
    assert load(made, "a") == [Standing.LOADING]
    made.adapter_fetched("b")
    assert made.levels()["a"] is Level.HOST


def test_unused_adapter_is_removed_at_once():
    made = residency(adapter("a"))
    assert made.remove("a")
    assert made.take_orders()[0] == (Release(version="a"),)


def test_adapter_in_use_is_removed_when_its_last_user_ends():
    made = residency(adapter("a"))
    made.join(("a",))
    made.join(("a",))
    assert not made.remove("a")
    made.leave(("a",))
    assert "a" in made.levels()
    made.leave(("a",))
    assert "a" not in made.levels()


def test_adapter_on_its_way_out_takes_no_new_requests():
    made = residency(adapter("a"))
    made.join(("a",))
    made.remove("a")
    with pytest.raises(UnknownAdapter):
        made.check_known(("a",))


def test_adapter_registered_again_stays():
    made = residency(adapter("a"))
    made.join(("a",))
    made.remove("a")
    made.register(adapter("a"), has_store=False)
    made.leave(("a",))
    assert made.levels() == {"a": Level.HOST}


def test_adapter_registered_again_before_its_release_keeps_its_arrays():
    made = residency(adapter("a"))
    made.remove("a")
    made.register(adapter("a"), has_store=False)
    assert made.take_orders()[0] == ()


def test_arrays_read_again_before_their_release_are_kept():
    made = residency(adapter("a"), adapter("b"), host_bytes=10, has_store=True)
    made.adapter_fetched("a")
    made.adapter_fetched("b")
    made.adapter_fetched("a")
    assert made.take_orders()[0] == (Release(version="b"),)


def test_arrays_that_arrive_after_removal_are_released():
    made = residency(adapter("a"), has_store=True)
    load(made, "a")
    made.remove("a")
    made.adapter_fetched("a")
    assert made.take_orders()[0] == (Release(version="a"),)


def test_failed_fetch_gives_its_pages_back_and_undoes_the_pin():
    made = residency(adapter("a"), has_store=True)
    made.pin("a")
    load(made)
    made.fetch_failed("a")
    made.begin(set())
    assert (made.num_free_pages, made.take_orders()[1]) == (4, ())
