"""Which paths lie inside the adapter roots."""

import sys

import pytest

from checkpoints.roots import resolve
from lorajax.errors import BadRequest
from tests.checkpoints.permissions import unreadable

OPENED = []
"""What was opened or listed, recorded while a test has switched the hook on."""
_WATCHING = []


def _hook(event, arguments):
    if _WATCHING and event in ("open", "os.listdir", "os.scandir"):
        OPENED.append(str(arguments[0]))


@pytest.fixture
def opened():
    """Paths opened or listed during the test. An audit hook cannot be removed, so it is added once and switched."""
    if not hasattr(sys, "_lorajax_roots_hook"):
        sys._lorajax_roots_hook = True
        sys.addaudithook(_hook)
    OPENED.clear()
    _WATCHING.append(True)
    yield OPENED
    _WATCHING.clear()


@pytest.fixture
def root(tmp_path):
    """A root with one adapter, beside a folder that is none of the caller's business."""
    for folder in ("root/sql", "outside"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "adapter_config.json").write_text("{}")
    return tmp_path / "root"


def test_relative_and_absolute_paths_inside_are_found(root):
    assert resolve("sql", [root]) == resolve(str(root / "sql"), [root]) == root / "sql"


def test_first_root_that_has_it_is_taken(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert resolve("sql", [other, root]) == root / "sql"


def test_link_that_stays_inside_is_followed(root):
    (root / "latest").symlink_to("sql")
    assert resolve("latest", [root]) == root / "sql"


def test_root_that_is_a_link_is_followed(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert resolve("sql", [tmp_path / "link"]) == root / "sql"


@pytest.mark.parametrize(
    "path", ["../outside", "..", "/", "sql/../../outside", "link", "link/deeper", "../root-2", "a\0b", ""]
)
def test_path_that_leads_out_is_refused_and_nothing_is_opened(root, opened, path):
    (root / "link").symlink_to("../outside")
    (root.parent / "root-2").mkdir()
    with pytest.raises(BadRequest, match="--adapter-root") as caught:
        resolve(path, [root])
    assert caught.value.field == "path"
    assert not [name for name in opened if str(root.parent) in name]


def test_refusal_does_not_tell_what_exists_outside(root):
    words = []
    for name in ("../outside", "../missing"):
        with pytest.raises(BadRequest) as caught:
            resolve(name, [root])
        words.append(str(caught.value).replace(name, ""))
    assert words[0] == words[1]


def test_folder_with_a_file_that_links_out_is_refused(root):
    (root / "sql" / "adapter_model.safetensors").symlink_to("../../outside/adapter_config.json")
    with pytest.raises(BadRequest, match="links out"):
        resolve("sql", [root])


@pytest.mark.parametrize("path", ["missing", "sql/adapter_config.json", "x" * 10_000])
def test_what_is_no_folder_is_refused(root, path):
    with pytest.raises(BadRequest, match="no folder"):
        resolve(path, [root])


def test_folder_that_may_not_be_listed_is_refused():
    with unreadable(".") as folder, pytest.raises(BadRequest, match="cannot list 'model': Permission denied") as caught:
        resolve(folder.name, [folder.parent])
    assert caught.value.field == "path"


def test_server_without_roots_says_how_to_get_one():
    with pytest.raises(BadRequest, match="start it with --adapter-root"):
        resolve("sql", [])
