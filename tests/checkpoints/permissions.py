"""Files that may not be read, whoever runs the tests. Owns: giving up root's rights for a while."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def unreadable(name: str) -> Iterator[Path]:
    """A folder with a `config.json`, without the right to `name` in it ("." for all); root is nobody meanwhile."""
    was_root = os.getuid() == 0
    # Not pytest's own folder: only its owner may enter that, which nobody is not.
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        os.chmod(outer, 0o755)
        (folder / name).chmod(0)
        if was_root:
            os.setresuid(_NOBODY, _NOBODY, 0)
        try:
            yield folder
        finally:
            if was_root:
                os.setresuid(0, 0, 0)
            folder.chmod(0o700)
