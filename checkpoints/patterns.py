"""Regular expressions from strangers' files. Owns: whether one matches a whole text, in time that cannot explode.

Does not: find, capture or replace. `re` backtracks, so `(a|a)*b` in a config would hold the interpreter for ever; here
each part of a pattern becomes a remembered function from a place to start at to all the places it may end at.
Source: Thompson 1968, "Regular expression search algorithm" (CACM 11:6), with `re` for the parts that consume once.
"""

import functools
import re
from collections.abc import Callable

MAX_LENGTH = 4096
"""Characters of one pattern."""
MAX_DEPTH = 32
"""Groups inside groups."""

type Ends = frozenset[int]
type Matcher = Callable[[str, int], Ends]
"""Every place that a match of the text may end at if it starts at the given place."""

_TOKEN = re.compile(
    r"""(?P<atom> \w+(?![\w*+?{]) | \w | [.^$/,:;<>=!@\#%&~`"'\ -] | \\[^0-9xuUN] | \[\^?\]?(?:\\.|[^\]\\])*\] )
      | (?P<open> \( (?: \?: | \?P<\w+> | \?= | \?! | (?!\?) ) ) | (?P<close> \) ) | (?P<bar> \| )
      | (?P<repeat> (?: [*+?] | \{ (?P<low>\d*) (?P<comma>,)? (?P<high>\d*) \} ) \?? (?!\+) )""",
    re.VERBOSE | re.DOTALL,
)

_PLAIN = re.compile(r"(?: [\w.^$] | \\\. )*", re.VERBOSE)
"""Patterns without a choice, so without backtracking: most are module names, and a config may hold hundreds of them."""


def whole_match(pattern: str) -> Callable[[str, int], bool]:
    """Whether `pattern` matches all of a text from a place on, as `re`'s `fullmatch(text, place)` would say.

    Cost: len(pattern) * len(text) ** 3 at worst.
    Raises: ValueError if it is no regular expression, or needs back references, look-behind, flags, or atomic or
    possessive parts.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"it has {len(pattern)} characters; at most {MAX_LENGTH}")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"it is not a regular expression: {error}") from error
    if _PLAIN.fullmatch(pattern):
        return lambda text, at: compiled.fullmatch(text, at) is not None
    matcher = _Parser(pattern).parse()
    return lambda text, at: len(text) in matcher(text, at)


class _Parser:
    """Recursive descent over the tokens of one pattern that `re` has already accepted.

    Invariant: `_at` is the first character that no returned matcher covers.
    Owner: `whole_match`, for one call.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> Matcher:
        return self._branches(depth=0)

    def _next(self) -> re.Match[str] | None:
        if self._at == len(self._pattern):
            return None
        token = _TOKEN.match(self._pattern, self._at)
        if token is None:
            rest = self._pattern[self._at : self._at + 16]
            raise ValueError(f"{rest!r} is a kind of pattern we do not match; use characters, classes, groups, | * + ?")
        return token

    def _branches(self, depth: int) -> Matcher:
        if depth > MAX_DEPTH:
            raise ValueError(f"its groups are nested more than {MAX_DEPTH} deep")
        branches = [self._sequence(depth)]
        while (token := self._next()) and token["bar"]:
            self._at = token.end()
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else _either(branches)

    def _sequence(self, depth: int) -> Matcher:
        parts = []
        while (token := self._next()) and not token["bar"] and not token["close"]:
            self._at = token.end()
            part = self._group(token["open"], depth) if token["open"] else _atom(token.group())
            parts.append(self._repeated(part))
        return _chain(parts)

    def _group(self, opening: str, depth: int) -> Matcher:
        inner = self._branches(depth + 1)
        self._at += 1  # the closing parenthesis: `re` has checked that it is there
        return _ahead(inner, negated=opening == "(?!") if opening in ("(?=", "(?!") else inner

    def _repeated(self, part: Matcher) -> Matcher:
        token = self._next()
        if token is None or not token["repeat"]:
            return part
        self._at = token.end()
        if token["repeat"][0] in "*+?":
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[token["repeat"][0]]
        else:
            low = int(token["low"] or 0)
            high = low if not token["comma"] else int(token["high"]) if token["high"] else None
        return _repeat(part, low, high)


# Remembering bounds the cost: every part is tried once per place of a text, however parts nest. Texts come one by one.
_remembered = functools.lru_cache(maxsize=512)


def _atom(source: str) -> Matcher:
    once = re.compile(source)

    def ends(text: str, at: int) -> Ends:
        match = once.match(text, at)
        return frozenset([match.end()]) if match else frozenset()

    return ends


def _chain(parts: list[Matcher]) -> Matcher:
    @_remembered
    def ends(text: str, at: int) -> Ends:
        return functools.reduce(lambda places, part: _after(part, text, places), parts, frozenset([at]))

    return ends


def _either(branches: list[Matcher]) -> Matcher:
    return lambda text, at: frozenset().union(*(branch(text, at) for branch in branches))


def _ahead(inner: Matcher, *, negated: bool) -> Matcher:
    return lambda text, at: frozenset([at]) if bool(inner(text, at)) != negated else frozenset()


def _repeat(part: Matcher, low: int, high: int | None) -> Matcher:
    @_remembered
    def ends(text: str, at: int) -> Ends:
        # After len(text) rounds a part that consumes is exhausted, and one that may consume nothing adds nothing new.
        enough = len(text) + 1
        reached = frozenset([at])
        for _ in range(min(low, enough)):
            reached = _after(part, text, reached)
        new = reached
        for _ in range(enough if high is None else min(high - low, enough)):
            new = _after(part, text, new) - reached
            reached |= new
        return reached

    return ends


def _after(part: Matcher, text: str, places: Ends) -> Ends:
    return frozenset().union(*(part(text, at) for at in places))
