"""Sizes of kernels: a device's measured table where there is one, else what is counted."""

import pytest

from pallas_kernels import mosaic_parts
from pallas_kernels.tuned import FOLDER, file_name, table, tuning


def test_without_a_table_the_counted_choice_holds(tmp_path):
    assert table(tmp_path / "none.json") == {}
    assert tuning(32, 32, 4096, (4096,)) == mosaic_parts.tuning(32, 32, 4096, (4096,))


@pytest.mark.parametrize(("kind", "name"), [("NVIDIA H200", "nvidia-h200.json"), ("cpu", "cpu.json")])
def test_a_device_has_a_file(kind, name):
    assert file_name(kind) == name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_committed_tables_can_be_read(path):
    assert table(path)
