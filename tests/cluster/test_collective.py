"""Bytes cross from one process to another by a collective, through restarts of both."""

import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.multihost

_PROCESS = """
import random, sys
process, devices, rendezvous, size, life = sys.argv[1:]
process, devices, size = int(process), int(devices), int(size)
from cluster import world
from cluster.collective import WorldLinks
from cluster.config import WorldConfig, host_name, process_of
world.join(WorldConfig(rendezvous=rendezvous, process=process, num_processes=2, devices=devices, init_timeout_s=60))
world.announce(f"here/{process}/{life}", "")  # as hosts shake hands: who joins late forgets former lives
world.look_up(f"here/{1 - process}/{life}", 60)
links, content = WorldLinks(process_of), random.Random(size).randbytes(size)
view, cut = memoryview(content), size // 3
for source, is_gentle in ((0, False), (1, True)):
    if process == source:
        links.to(host_name(1 - source)).send([view[:cut], view[cut:cut], view[cut:]], is_gentle=is_gentle)
    else:
        assert links.of(host_name(source)).receive(size, is_gentle=is_gentle) == content
print("done", flush=True)
import os
os._exit(0)  # as if killed: nothing is taken back from the service
"""


@pytest.fixture
def rendezvous():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    code = f"import time; from cluster import world; s = world.start_service({address!r}, 2); time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", code])
    yield address
    process.kill()
    process.wait()


def _world(rendezvous, devices, size, life=1):
    """The last words of both processes."""
    command = [sys.executable, "-c", _PROCESS]
    running = [
        subprocess.Popen(
            [*command, str(process), str(devices), rendezvous, str(size), str(life)], stdout=subprocess.PIPE, text=True
        )
        for process in range(2)
    ]
    return [process.communicate(timeout=120)[0].splitlines()[-1] for process in running]  # Gloo talks before


@pytest.mark.parametrize(("devices", "size"), [(1, 20_000_003), (1, 5_000_001), (2, 9_000_001), (1, 70)])
def test_bytes_arrive_both_ways_at_once_or_gently_whatever_the_number_of_devices(rendezvous, devices, size):
    assert _world(rendezvous, devices, size) == ["done"] * 2


def test_two_processes_that_were_both_restarted_meet_again_in_the_same_world(rendezvous):
    assert _world(rendezvous, 1, 1000) == ["done"] * 2
    assert _world(rendezvous, 1, 1000, life=2) == ["done"] * 2
