import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorajax.pages import PagePool


def test_page_0_is_never_handed_out():
    assert 0 not in PagePool(9).take(8)


def test_pages_exclude_page_0_from_the_count():
    assert (PagePool(9).num_total, PagePool(9).num_free) == (8, 8)


def test_giving_back_a_free_page_is_our_bug():
    pool = PagePool(3)
    pages = pool.take(1)
    pool.give_back(pages)
    with pytest.raises(AssertionError, match="free already"):
        pool.give_back(pages)


def test_taking_more_than_there_is_is_our_bug():
    with pytest.raises(AssertionError, match="3 pages asked for, 2 free"):
        PagePool(3).take(3)


def test_pool_without_page_0_is_refused():
    with pytest.raises(ValueError, match="num_pages is 0"):
        PagePool(0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_pages_are_free_or_taken_never_both(moves):
    pool, held = PagePool(12), []
    for is_take, amount in moves:
        if is_take:
            held.append(pool.take(min(amount, pool.num_free)))
        elif held:
            pool.give_back(held.pop(amount % len(held)))
        pages = [page for group in held for page in group]
        assert len(set(pages)) == len(pages) == pool.num_total - pool.num_free
