"""A front door believes tables that are ready, and says that it serves when somebody does."""

from cluster import control_pb2
from cluster.control_wire import table_to_proto
from cluster.follower import Follower
from cluster.view import HostName, HostSpec, HostState, HostView, Table
from tests.cluster.rig import on_loop


class Door:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.tables: list[int] = []
        self.beats: list[str] = []
        self.num_serving = 0

    def update(self, table):
        self.tables.append(table.number)
        self.num_serving = sum(host.state is HostState.SERVING for host in table.hosts.values())

    def beat(self, host, state, load, copies):
        self.beats.append(host)


def _update(number, *states, is_ready):
    hosts = {
        HostName(f"h{i}"): HostView(
            spec=HostSpec(
                name=HostName(f"h{i}"), address="a:1", incarnation=1, host_bytes=1, num_adapter_pages=1, max_sequences=1
            ),
            state=state,
        )
        for i, state in enumerate(states)
    }
    table = table_to_proto(Table(number=number, round=0, hosts=hosts, registrations={}, shares={}))
    table.is_ready = is_ready
    return control_pb2.TableUpdate(table=table)


async def _followed(*updates):
    door, said = Door(), []

    async def set_serving(is_serving):
        said.append(is_serving)

    follower = Follower(door, set_serving)
    for update in updates:
        await follower.apply(update)
    return door, said


@on_loop
async def test_it_serves_once_the_cluster_was_complete():
    serving = HostState.SERVING
    door, said = await _followed(_update(1, serving, is_ready=False), _update(2, serving, is_ready=True))
    assert (door.tables, said) == ([1, 2], [True])


@on_loop
async def test_a_coordinator_that_has_just_come_back_takes_nothing_away():
    door, _ = await _followed(_update(5, HostState.SERVING, is_ready=True), _update(1, is_ready=False))
    assert (door.tables, door.num_serving) == ([5], 1)


@on_loop
async def test_without_a_serving_host_it_does_not_serve():
    _, said = await _followed(
        _update(1, HostState.SERVING, is_ready=True),
        _update(2, HostState.LOST, is_ready=True),
        _update(3, HostState.SERVING, is_ready=True),
    )
    assert said == [True, False, True]


@on_loop
async def test_beats_pass_to_the_front_door():
    beat = control_pb2.HostBeat(host="h0", beat=control_pb2.Beat(state="serving"))
    door, _ = await _followed(control_pb2.TableUpdate(beats=control_pb2.HostBeats(beats=[beat])))
    assert door.beats == ["h0"]
