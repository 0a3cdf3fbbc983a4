import pytest

from cluster.registrations import Registrations
from cluster.view import Adapter, Registration
from lorajax.errors import AdapterExists, UnknownAdapter


def registration(name, version="v1", path="/first", is_pinned=False):
    adapter = Adapter(version=version, rank=8, num_bytes=100, path=path)
    return Registration(name=name, adapter=adapter, is_pinned=is_pinned)


@pytest.fixture
def names():
    names = Registrations()
    names.put(registration("pirate"))
    return names


def test_unknown_name_is_told_its_neighbours(names):
    with pytest.raises(UnknownAdapter, match="did you mean pirate"):
        names.of("pirat")


def test_other_content_needs_replace(names):
    with pytest.raises(AdapterExists, match="set replace"):
        names.proposal(registration("pirate", "v2"), replace=False)


def test_same_content_keeps_its_first_store(names):
    assert names.proposal(registration("pirate", path="/second"), replace=False) == registration("pirate")


def test_same_content_takes_its_new_store_with_replace(names):
    names.put(registration("corsair", path="/third"))
    names.put(names.proposal(registration("corsair", path="/second"), replace=True))
    assert names.adapters()["v1"].path == "/second"


def test_pin_outlives_a_replacement(names):
    names.put(registration("pirate", is_pinned=True))
    assert names.proposal(registration("pirate", "v2"), replace=True).is_pinned


def test_replaced_version_is_nameless(names):
    assert names.put(registration("pirate", "v2")) == "v1"


def test_version_with_another_name_is_not_nameless(names):
    names.put(registration("corsair"))
    assert names.remove("pirate") is None


def test_version_is_fetched_from_a_store_that_a_name_still_stands_for(names):
    names.put(registration("corsair", path="/second"))
    names.remove("pirate")
    assert names.adapters()["v1"].path == "/second"


def test_version_is_pinned_while_any_of_its_names_is(names):
    names.put(registration("corsair", is_pinned=True))
    pinned = names.pinned()
    names.remove("corsair")
    assert (pinned, names.pinned()) == (("v1",), ())
