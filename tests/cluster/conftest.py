"""What more than one file of the cluster's tests begins with."""

import pytest

from tests.cluster.host_rig import made
from tests.cluster.pool_rig import pooling


@pytest.fixture
def rig(tmp_path):
    """An adapter pool without sockets."""
    with pooling(tmp_path) as rig:
        yield rig


@pytest.fixture
def elsewhere(tmp_path):
    """An adapter outside the roots: only peers can give it."""
    return made(tmp_path / "elsewhere")
