"""What to say to whoever names an adapter that does not exist. Owns: names that look alike. Keeps none itself."""

import bisect
import difflib
from collections.abc import Sequence

# Comparing two names costs the product of their lengths: a flood of unknown names must not stall the event loop.
_MAX_COMPARED = 32
_MAX_COMPARED_LENGTH = 48


def unknown(name: str, names: Sequence[str]) -> str:
    """One line with up to three names that look alike, out of those of a sorted list that begin most alike."""
    near = _nearest(name, names)
    hint = f"did you mean {', '.join(near)}?" if near else "`lorajax adapter list` shows those loaded"
    return f"no adapter {name!r}; {hint}"


def _nearest(name: str, names: Sequence[str]) -> list[str]:
    at = bisect.bisect(names, name)
    start = max(0, min(at - _MAX_COMPARED // 2, len(names) - _MAX_COMPARED))
    alike = [known for known in names[start : start + _MAX_COMPARED] if len(known) <= _MAX_COMPARED_LENGTH]
    return difflib.get_close_matches(name, alike, n=3) if len(name) <= _MAX_COMPARED_LENGTH else []
