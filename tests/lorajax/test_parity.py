"""Our tokens are those of `transformers` + `peft`: every family, adapter, weight and prompt of the parity fixture."""

from itertools import groupby

import numpy as np
import pytest

from lorajax.spec import FinishReason
from tests.tiny_engine import FIXTURES, PARITY, Serving, model

LOGITS = np.load(FIXTURES / "parity.npz")["logits"]
CASES = {family: list(cases) for family, cases in groupby(enumerate(PARITY["cases"]), lambda case: case[1]["family"])}
LOGIT_TOLERANCE = 1e-4
NUM_TOP = 20
"""Log probabilities compared at the first position; through their normaliser, each depends on every logit."""

# Ways of computing the same: kernels, devices, and the families whose shapes exercise them differently. Three devices
# divide the feed-forward alone, so heads and vocabulary stay whole.
WAYS = [
    *(("native", 1, family) for family in CASES),
    *(("xla", 1, family) for family in ("llama", "mistral", "qwen2")),
    ("reference", 1, "mistral"),
    *(("native", 2, family) for family in ("llama", "qwen3")),
    ("native", 3, "llama"),
    *(("native", 4, family) for family in ("qwen2", "qwen3")),
]


@pytest.fixture
def compiled(request):
    """The model of one way."""
    kernels, tensor_parallel, family = request.param
    if kernels == "native":
        request.getfixturevalue("native_kernels")
    return model(family, kernels, tensor_parallel), CASES[family]


def each(ways):
    return pytest.mark.parametrize("compiled", ways, indirect=True, ids=["-".join(map(str, way)) for way in ways])


def ask(serving, tiny, cases):
    return serving.ask(*(_request(tiny, index, case) for index, case in cases))


def _request(tiny, index, case):
    return tiny.request(str(index), case["prompt"], *map(tuple, case["adapters"]), logprobs=NUM_TOP)


def check(answers, cases):
    """Every token, and the first position's log probabilities."""
    for index, case in cases:
        answer = answers[str(index)]
        assert answer.ids == case["tokens"], case
        assert answer.ending.reason is FinishReason.LENGTH
        wanted = LOGITS[index] - np.logaddexp.reduce(LOGITS[index].astype(np.float64))
        ids, logprobs = zip(*answer.tokens[0].top, strict=True)
        np.testing.assert_allclose(logprobs, wanted[list(ids)], rtol=0, atol=LOGIT_TOLERANCE, err_msg=str(case))
        np.testing.assert_allclose(logprobs, np.sort(wanted)[::-1][:NUM_TOP], rtol=0, atol=LOGIT_TOLERANCE)


@each(WAYS)
def test_all_prompts_and_adapters_mixed_in_one_batch_answer_as_transformers_and_peft_do(compiled):
    tiny, cases = compiled
    with Serving(tiny) as serving:
        serving.load(*tiny.adapters.values())
        check(ask(serving, tiny, cases), cases)


@each([way for way in WAYS if way[:2] == ("native", 1)])
def test_each_prompt_alone_answers_as_transformers_and_peft_do(compiled):
    tiny, cases = compiled
    with Serving(tiny) as serving:
        serving.load(*tiny.adapters.values())
        for case in cases:
            check(ask(serving, tiny, [case]), [case])
