from cluster.events import Answer, DropAdapter, FetchAdapter, Forget, Publish
from cluster.orders import Orders
from cluster.view import Adapter


def fetch(number, version="v"):
    adapter = Adapter(version=version, rank=8, num_bytes=1, path="/v")
    return FetchAdapter(number=number, host="a", adapter=adapter, peers=())


def test_what_is_durable_leaves_first_and_drops_last():
    orders = Orders()
    commands = (DropAdapter(number=1, host="a", version="u"), fetch(2), Answer(call=1), Publish(), Forget(name="n"))
    for command in commands:
        orders.send(command)
    assert orders.take() == commands[::-1]


def test_table_is_published_once_a_step():
    orders = Orders()
    orders.send(Publish())
    orders.send(Publish())
    assert orders.take() == (Publish(),)


def test_command_is_answered_once():
    orders = Orders()
    orders.send(fetch(orders.number()))
    assert [orders.answered(1) is None for _ in range(2)] == [False, True]


def test_lost_host_answers_nothing_more():
    orders = Orders()
    orders.send(fetch(orders.number()))
    assert (orders.lose("a"), orders.answered(1)) == ((fetch(1),), None)


def test_drop_of_a_silent_host_may_still_be_carried_out():
    orders = Orders()
    orders.send(drop := DropAdapter(number=orders.number(), host="a", version="v"))
    assert (orders.lose("a"), orders.answered(1)) == ((), drop)


def test_new_connection_answers_nothing_of_the_last():
    orders = Orders()
    orders.send(DropAdapter(number=orders.number(), host="a", version="v"))
    orders.forget("a")
    assert orders.answered(1) is None


def test_numbers_of_a_new_life_are_beyond_those_of_the_last():
    old, new = Orders(), Orders()
    old.restart(7)
    new.restart(8)
    assert max(old.number() for _ in range(1000)) < new.number()
