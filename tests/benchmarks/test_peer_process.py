"""A peer works in its turns only, and one that cannot start or go on says why in a line."""

import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.peers.process import Launch, PeerDied, started

SCRIPT = """#!{python}
import sys
print('{{"ready": true}}', flush=True)
for line in sys.stdin:
    print('{{"tokens_per_s": 5.0}}', flush=True)
"""


def launch(python: Path, model: Path) -> Launch:
    return Launch(
        module="hf_peft", python=python, model=model, prompts=model / "prompts.json", adapters={}, new_tokens=2
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def peer(model):
    script = model / "python"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    with started(launch(script, model), model / "log") as found:
        yield found


def test_peer_is_stopped_once_it_has_loaded(peer):
    peer.pause()
    assert psutil.Process(peer.pid).status() == psutil.STATUS_STOPPED


def test_peer_answers_in_its_turn(peer):
    peer.pause()
    assert peer.measure([None]) == {"tokens_per_s": 5.0}


def test_peer_that_ends_early_is_reported_with_its_last_words(model):
    script = model / "python"
    script.write_text("#!/bin/sh\necho no such thing >&2\n")
    script.chmod(0o755)
    with started(launch(script, model), model / "log") as peer, pytest.raises(PeerDied, match="no such thing"):
        peer.pause()


def test_missing_environment_names_the_setup(model):
    problem = launch(model / "nowhere", model).problem
    assert problem is not None
    assert "setup.sh" in problem
