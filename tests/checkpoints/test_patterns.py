"""Patterns against `re.fullmatch`, which is the meaning, and against the patterns that `re` never finishes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.patterns import whole_match

NAME = "model.layers.11.self_attn.q_proj"
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj)))"
)
REAL = (
    *("q_proj", r".*q_proj", r".*\.(q|k)_proj", r"model\.layers\.(\d|1[0-2])\..*", r"^model.*proj$", r".*[^v]_proj"),
    *(
        r"(?!.*mlp).*_proj",
        r"(?=.*self_attn).*",
        r"(?P<a>model)(\.\w+){4}",
        r"(?:.*\.)?q_proj",
        r".*layers.{1,4}self.*",
    ),
    *(
        r"model\.(layers\.)+1+\.\S*",
        r".*\b11\b.*",
        r".*q_pro",
        r"(a|)*.*j{1}",
        r"x{0}.*",
        r".*(?:_proj){,2}",
        r"[]a]|.*",
        UNSLOTH,
    ),
)
ATOMS = st.sampled_from(["a", "b", "ab", ".", r"\.", r"\w", "[ab]", "[^a]", r"\b", "^", "$", ""])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(st.sampled_from(["(", "(?:", "(?=", "(?!"]), inner).map(lambda pair: f"{pair[0]}{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("pattern", REAL)
def test_patterns_of_real_configs_match_as_re_does(pattern):
    assert whole_match(pattern)(NAME, 0) == bool(re.fullmatch(pattern, NAME))


@given(pattern=PATTERNS, text=st.text("ab.", max_size=6), at=st.sampled_from([0, 1]))
def test_any_pattern_matches_as_re_does(pattern, text, at):
    at = min(at, len(text))
    assert whole_match(pattern)(text, at) == bool(re.compile(pattern).fullmatch(text, at))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w|\w|\.)*!",
        r"((.*)*)*!",
        "(?:" * 30 + "a" + ")*" * 30,
        "(?=.*" * 30 + "!" + ")" * 30,
        "(" * 30 + "a?" + "){40}" * 30,
    ],
    ids=["alternatives", "nested stars", "deep stars", "deep look-ahead", "deep counts"],
)
def test_patterns_that_explode_elsewhere_are_answered(pattern):
    assert not whole_match(pattern)("a" * 38 + ".b", 0)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "not a regular expression"),
        ("a" * 5000, "5000 characters"),
        ("(" * 40 + ")" * 40, "nested more than 32 deep"),
        (r"(a)\1", "kind of pattern"),
        ("(?<=a)b", "kind of pattern"),
        ("(?i)a", "kind of pattern"),
        ("a*+", "kind of pattern"),
        ("(?>a)", "kind of pattern"),
    ],
)
def test_what_we_do_not_match_is_refused(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        whole_match(pattern)
