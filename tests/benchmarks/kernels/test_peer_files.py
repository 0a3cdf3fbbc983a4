"""Only the files that are needed leave a wheel, and what is missing is said."""

import zipfile

import pytest

from benchmarks.kernels.peer_files import FILES, extract, missing, provide

EVERY = [name for names in FILES.values() for name in names]


def wheel(folder, names):
    path = folder / "peers.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name in (*names, "vllm/engine.py"):
            packed.writestr(name, "# theirs")
    return path


def test_only_what_is_needed_is_extracted(tmp_path):
    extract(wheel(tmp_path, EVERY), tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == sorted(EVERY)


def test_wheels_that_lie_in_the_folder_are_enough(tmp_path):
    wheel(tmp_path, EVERY)
    provide(tmp_path)
    assert missing(tmp_path) == []


@pytest.mark.parametrize("name", EVERY[:1])
def test_a_missing_file_is_named(tmp_path, name):
    extract(wheel(tmp_path, EVERY[1:]), tmp_path)
    assert missing(tmp_path) == [name]
