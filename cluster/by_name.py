"""What a name in a configuration stands for. Owns: the lookup, here or in any module. Does not: know the names."""

import importlib
from collections.abc import Mapping


def named[T](key: str, name: str, known: Mapping[str, T]) -> T:
    """What is known by the name, or else what MODULE:NAME says. Raises ValueError, with `key`, where that fails."""
    if name in known:
        return known[name]
    module, _, attribute = name.partition(":")
    try:
        found: T = getattr(importlib.import_module(module), attribute)  # any module's
    except Exception as error:  # whatever a stranger's module raises
        raise ValueError(f"{key} is {name!r}: {error}; name a function that can be imported") from error
    return found
