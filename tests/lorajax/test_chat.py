"""Claims about `lorajax.chat`: templates run as Hugging Face runs them, and contents forge no control token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorajax.chat import MAX_RENDERED_CHARS, ROLES, ChatTemplate, NoChatTemplate
from lorajax.errors import BadRequest, UnsupportedModel
from lorajax.text import CUT, Tokenizer
from tests import tiny_text

TOKENIZERS = [Tokenizer(tiny_text.byte_level()), Tokenizer(tiny_text.sentencepiece())]
HI = [("user", "hi")]
contents = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<s>", "<", "<|", "|>", "im_end", "</s", ">", "a", " ", "\n", CUT]),
    max_size=8,
).map("".join)
chats = st.lists(st.tuples(st.sampled_from(ROLES), contents), min_size=1, max_size=3)


def template(source: str, **variables: str) -> ChatTemplate:
    return ChatTemplate(
        source, variables=variables, control_tokens=tiny_text.CONTROL, strftime_now=lambda format: f"[{format}]"
    )


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    "source", [tiny_text.CHATML, "{% for m in messages %}{{ m['content'] }}{% endfor %}<|im_end|>"]
)
@given(chat=chats)
@settings(deadline=None)
def test_contents_forge_no_control_token(tokenizer, source, chat):
    def control_ids(messages):
        ids = tokenizer.encode_chat(template(source).render(messages))
        return [id for id in ids if id in tokenizer.special_tokens]

    assert control_ids(chat) == control_ids([(role, "") for role, _ in chat])


def test_neighbouring_contents_forge_no_control_token_together():
    adjacent = template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    ids = TOKENIZERS[0].encode_chat(adjacent.render([("user", "a<|im_"), ("user", "end|>b")]))
    assert not set(ids) & set(TOKENIZERS[0].special_tokens)
    assert TOKENIZERS[0].decode(ids) == "a<|im_end|>b"


@given(chats)
@settings(deadline=None)
def test_contents_stay_what_they_were(chat):
    tokenizer = TOKENIZERS[0]
    prompt = tokenizer.decode(tokenizer.encode_chat(template(tiny_text.CHATML).render(chat)))
    assert prompt == "".join(f"{role}\n{content}\n".replace(CUT, "") for role, content in chat) + "assistant\n"


def test_a_chat_that_spells_no_control_token_is_passed_through_untouched():
    chat = [("user", "if a < b: print(c > d) "), ("assistant", "")]
    expected = "<|im_start|>user\nif a < b: print(c > d) <|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
    assert template(tiny_text.CHATML).render(chat, add_generation_prompt=False) == expected


def test_overlapping_control_tokens_are_all_cut():
    overlapping = ChatTemplate(
        "{{ messages[0].content }}", variables={}, control_tokens=["||"], strftime_now=lambda format: format
    )
    assert "||" not in overlapping.render([("user", "a||||b")])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ {'b': 1} | tojson(indent=1) }}", '{\n "b": 1\n}'),
        ("{{ strftime_now('%d %b %Y') }}", "[%d %b %Y]"),
        ("{% generation %}x{{ messages[0].content }}{% endgeneration %}", "xhi"),
        ("{{ bos_token }}{{ eos_token is defined }}", "<s>False"),
        ("{{ tools is none }}{{ messages[0]['role'] }}", "Trueuser"),
        ("{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}", "2"),
    ],
)
def test_templates_run_as_in_hugging_face(source, text):
    assert template(source, bos_token="<s>").render(HI) == text


@pytest.mark.parametrize(("value", "text"), [(None, "unset"), (True, "True"), (False, "False")])
def test_template_hears_of_thinking_only_where_the_caller_says(value, text):
    source = "{% if enable_thinking is defined %}{{ enable_thinking }}{% else %}unset{% endif %}"
    assert template(source).render(HI, enable_thinking=value) == text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ messages[3].content.x }}", "has no element 3"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", str(MAX_RENDERED_CHARS)),
    ],
)
def test_what_a_template_refuses_is_one_line_of_bad_request(source, said):
    with pytest.raises(BadRequest, match=said) as refused:
        template(source).render(HI)
    assert "\n" not in str(refused.value)


def test_an_unknown_role_is_named():
    with pytest.raises(BadRequest, match="message 1 has role 'end<'") as refused:
        template(tiny_text.CHATML).render([*HI, ("end<", "x")])
    assert refused.value.field == "chat.messages[1].role"


def test_an_empty_chat_is_refused():
    with pytest.raises(BadRequest, match="no messages"):
        template(tiny_text.CHATML).render([])


def test_a_template_that_is_not_jinja_is_refused_with_its_line():
    with pytest.raises(UnsupportedModel, match="line 2"):
        template("x\n{% if %}")


def test_a_one_character_control_token_is_refused():
    with pytest.raises(UnsupportedModel, match="single character"):
        ChatTemplate("", variables={}, control_tokens=["|"], strftime_now=lambda format: format)


def test_a_model_without_a_template_asks_for_text():
    with pytest.raises(BadRequest, match="no chat template; send text"):
        NoChatTemplate().render(HI)
