"""One copy of the base over processes and devices at once answers as one engine on one device does."""

import asyncio

import grpc
import pytest

from benchmarks.local_cluster import launched
from tests.cluster.rig import on_loop
from tests.multihost import rig

pytestmark = pytest.mark.multihost


@on_loop
async def test_a_replica_of_two_processes_with_two_devices_each_answers_as_one_device_does(
    folder, environment, tmp_path, expected
):
    for name in ("model", "adapters"):
        (tmp_path / name).symlink_to(folder / name)
    config = rig.write_config(
        tmp_path, replicas=1, processes_per_replica=2, devices_per_process=2, transfer="collective"
    )
    asked = [(), *((name,) for name in rig.PRELOADED)]
    with launched(config, tmp_path / "said", environment=environment) as cluster:
        assert {"host-0", "host-1"} <= cluster.processes().keys()
        async with grpc.aio.insecure_channel(cluster.target) as channel:
            asks = rig.Asking(channel)
            streams = await asyncio.gather(*(asks.ask(*names) for names in asked))
    assert [stream.tokens for stream in streams] == [expected(*names) for names in asked]
