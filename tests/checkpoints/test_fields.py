"""Look-ups in foreign settings, and files that cannot be read."""

import pytest

from checkpoints.fields import Fields, check_regular, read_fields
from lorajax.errors import MalformedCheckpoint
from tests.checkpoints.permissions import unreadable


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), 0, -1, True, "1"])
def test_what_is_no_positive_float_is_refused_by_key(value):
    with pytest.raises(MalformedCheckpoint, match=r"^c\.json: scale is .*; it must be a number above 0$"):
        Fields(source="c.json", values={"scale": value}).number("scale")


@pytest.mark.parametrize("value", [1, 0.5, 1e308])
def test_positive_numbers_are_read_as_floats(value):
    assert Fields(source="c.json", values={"scale": value}).number("scale") == float(value)


@pytest.mark.parametrize("name", [".", "config.json"])
def test_a_file_that_may_not_be_read_is_named(name):
    with unreadable(name) as folder, pytest.raises(MalformedCheckpoint, match=r"^config\.json: cannot be read: .+$"):
        read_fields(folder / "config.json")


def test_a_pointer_of_git_lfs_says_how_to_get_the_file(tmp_path):
    (tmp_path / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(MalformedCheckpoint, match=r"^m\.gguf: a Git LFS pointer.*`git lfs pull`"):
        check_regular(tmp_path / "m.gguf")


def test_a_name_too_long_for_the_system_is_refused(tmp_path):
    with pytest.raises(MalformedCheckpoint, match=r"^x+: cannot be read: File name too long$"):
        read_fields(tmp_path / ("x" * 300))
