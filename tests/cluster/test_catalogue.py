"""Names, versions and their users."""

import random
from pathlib import Path

import pytest

from cluster.catalogue import Catalogue, Entry
from lorajax.errors import AdapterExists, AdapterInUse, UnknownAdapter
from lorajax.spec import AdapterSpec, Version


def entry(name, version="v1", *, is_pinned=False):
    spec = AdapterSpec(version=Version(version), rank=8, targets=("q_proj",), num_bytes=1)
    return Entry(name=name, spec=spec, source=Path("/store") / version, is_pinned=is_pinned)


def catalogue(*entries):
    filled = Catalogue()
    for one in entries:
        filled.put(filled.proposal(one, replace=False))
    return filled


def test_unknown_name_suggests_the_three_nearest():
    filled = catalogue(*(entry(name) for name in ("sql-1", "sql-2", "sql-3", "sql-4", "poems")))
    with pytest.raises(UnknownAdapter, match=r"did you mean sql-\d, sql-\d, sql-\d\?"):
        filled.entry("sql-5")


def test_unknown_name_without_neighbours_says_where_to_look():
    with pytest.raises(UnknownAdapter, match="adapter list"):
        catalogue().entry("sql")


def test_other_content_needs_replace():
    filled = catalogue(entry("sql"))
    assert filled.proposal(entry("sql"), replace=False) == entry("sql")
    assert filled.proposal(entry("sql", "v2"), replace=True) == entry("sql", "v2")
    with pytest.raises(AdapterExists, match="replace"):
        filled.proposal(entry("sql", "v2"), replace=False)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pinned_name_stays_pinned_whatever_is_loaded_into_it(version):
    filled = catalogue(entry("sql", is_pinned=True))
    assert filled.proposal(entry("sql", version), replace=True) == entry("sql", version, is_pinned=True)


def test_replacing_names_the_version_before():
    filled = catalogue(entry("sql"))
    assert filled.put(entry("sql", "v2")) == "v1"
    assert not filled.is_known(Version("v1"))


def test_replaced_version_stays_known_while_a_request_uses_it():
    filled = catalogue(entry("sql"))
    used = filled.acquire(["sql"])
    filled.put(entry("sql", "v2"))
    assert filled.is_known(Version("v1"))
    assert filled.release(used) == ("v1",)


def test_version_under_another_name_may_lose_one_while_in_use():
    filled = catalogue(entry("a"), entry("b"))
    filled.acquire(["a"])
    filled.remove("a", force=False)
    with pytest.raises(AdapterInUse, match="force"):
        filled.remove("b", force=False)


def test_version_is_pinned_by_any_of_its_names():
    filled = catalogue(entry("a"), entry("b", is_pinned=True))
    assert filled.is_pinned(Version("v1"))
    filled.pin("b", is_pinned=False)
    assert not filled.is_pinned(Version("v1"))


def test_refused_acquire_uses_nothing():
    filled = catalogue(entry("a"))
    with pytest.raises(UnknownAdapter):
        filled.acquire(["a", "b"])
    assert filled.num_uses(Version("v1")) == 0


@pytest.mark.parametrize("seed", range(20))
def test_version_is_known_exactly_while_named_or_used(seed):
    draw = random.Random(seed)
    filled, names, uses = Catalogue(), {}, []
    for _ in range(200):
        name, version = draw.choice("abc"), draw.choice(("v1", "v2", "v3"))
        match draw.randrange(4):
            case 0:
                filled.put(entry(name, version))
                names[name] = version
            case 1 if name in names:
                filled.remove(name, force=True)
                del names[name]
            case 2 if name in names:
                uses.append(filled.acquire([name]))
                assert uses[-1] == (names[name],)
            case 3 if uses:
                (ended,) = used = uses.pop(draw.randrange(len(uses)))
                is_last = ended not in names.values() and used not in uses
                assert filled.release(used) == (used if is_last else ())
        known = {*names.values(), *(version for (version,) in uses)}
        assert {version for version in ("v1", "v2", "v3") if filled.is_known(Version(version))} == known


def test_suggestions_are_found_among_thousands_of_names():
    filled = catalogue(*(entry(f"adapter-{number:05d}") for number in range(3000)))
    with pytest.raises(UnknownAdapter, match="did you mean adapter-01234,"):
        filled.entry("adapter-01234x")
