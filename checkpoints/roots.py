"""Which folders a caller may have read. Owns: the check that a path lies inside a root. Does not: open any file."""

import os
from collections.abc import Sequence
from pathlib import Path

from lorajax.errors import BadRequest


def resolve(path: str, roots: Sequence[Path]) -> Path:
    """The real folder of `path` inside one of `roots`; a relative path is relative to a root, the first that has it.

    Links may lead from place to place inside the roots, never out of them, and neither may the folder's entries.
    Nothing outside is opened or listed, and the refusal is the same whether or not it exists.
    Raises: BadRequest naming `--adapter-root`.
    """
    allowed = [Path(os.path.realpath(root)) for root in roots]
    if not allowed:
        raise BadRequest(
            "this server loads no adapters by path; start it with --adapter-root DIR ([adapters] roots of a cluster)",
            "path",
        )
    if "\0" in path or not path:
        raise BadRequest(f"{path[:80]!r} is not a path; name a folder inside an --adapter-root", "path")
    inside = [real for root in allowed if _is_inside(real := Path(os.path.realpath(root / path)), allowed)]
    if not inside:
        raise BadRequest(
            f"{path[:80]!r} is outside every --adapter-root; copy it below one, or allow its parent", "path"
        )
    folder = next((real for real in inside if os.path.isdir(real)), None)
    if folder is None:
        raise BadRequest(f"no folder {path[:80]!r} below an --adapter-root (in a cluster, [adapters] roots)", "path")
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise BadRequest(f"the server cannot list {path[:80]!r}: {error.strerror}; make it readable", "path") from None
    for name in names:
        if not _is_inside(Path(os.path.realpath(folder / name)), allowed):
            raise BadRequest(f"{name!r} in that folder links out of every --adapter-root; copy the file", "path")
    return folder


def _is_inside(real: Path, roots: Sequence[Path]) -> bool:
    return any(real.is_relative_to(root) for root in roots)
