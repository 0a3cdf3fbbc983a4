"""A model's own chat template: messages in, prompt text out. Owns: how templates run, and that contents forge nothing.

Does not: make token ids (`lorajax.text.Tokenizer.encode_chat` does). A template is a program, and a loop in it is not
bounded here: templates come from the operator's model folder, never from a request or an adapter.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorajax.errors import BadRequest, UnsupportedModel
from lorajax.text import CUT

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles a message may have; some templates build control tokens from them, so no other text is let through."""

MAX_RENDERED_CHARS = 2**22
"""Largest prompt text that a template may write."""


@final
class ChatTemplate:
    """One Jinja chat template, run the way Hugging Face runs it.

    Control tokens that a message's content spells out are cut in two with `CUT`, which `Tokenizer.encode_chat` drops
    again after splitting there: they become plain text. A content that spells none is passed through untouched.
    """

    def __init__(
        self,
        source: str,
        *,
        variables: Mapping[str, str],
        control_tokens: Sequence[str],
        strftime_now: Callable[[str], str],
    ) -> None:
        """Compile `source`; `variables` are its `bos_token` and the like, `strftime_now` writes today's date.

        Raises: UnsupportedModel if the template is not valid Jinja.
        """
        self.source = source
        self.variables = dict(variables)
        if uncuttable := [token for token in control_tokens if len(token) < 2]:
            raise UnsupportedModel(
                f"the special token {uncuttable[0]!r} is a single character; it cannot be kept out of chats"
            )
        # A look-ahead, so that tokens that overlap are all found; no control tokens match nowhere.
        spelled = "|".join(map(re.escape, control_tokens)) or "(?!)"
        self._first_char_of_control = re.compile(f"(?={spelled}).", re.DOTALL)
        self._beginnings = {token[:end] for token in control_tokens for end in range(1, len(token))}
        self._longest = max(map(len, control_tokens), default=0)
        try:
            self._template = _environment(strftime_now).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UnsupportedModel(
                f"line {error.lineno} of the chat template is not valid Jinja: {error.message}"
            ) from None

    def render(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
    ) -> str:
        """Prompt text of (role, content) messages, for `Tokenizer.encode_chat` alone.

        `enable_thinking` is for templates that ask for it; with None they do not hear of it.

        Raises: BadRequest if there is no message, a role is unknown, the template refuses, or the text is too long.
        """
        if not messages:
            raise BadRequest("the chat has no messages; send at least one", field="chat.messages")
        context = {
            **self.variables,
            "messages": [self._message(index, *message) for index, message in enumerate(messages)],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        if enable_thinking is not None:
            context["enable_thinking"] = enable_thinking
        try:
            return self._text(context)
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:500]
            raise BadRequest(
                f"the model's chat template refuses these messages: {reason}", field="chat.messages"
            ) from None

    def _message(self, index: int, role: str, content: str) -> dict[str, str]:
        if role not in ROLES:
            raise BadRequest(
                f"message {index} has role {role[:40]!r}; use one of {', '.join(ROLES)}",
                field=f"chat.messages[{index}].role",
            )
        return {"role": role, "content": self._cut(content)}

    def _cut(self, content: str) -> str:
        """`content` with every control token in it, and one it could begin at its end, cut in two."""
        content = self._first_char_of_control.sub(rf"\g<0>{CUT}", content)
        endings = (content[-length:] for length in range(1, min(self._longest, len(content) + 1)))
        return content + CUT if any(ending in self._beginnings for ending in endings) else content

    def _text(self, context: Mapping[str, Any]) -> str:
        parts: list[str] = []
        num_chars = 0
        for part in self._template.generate(context):
            num_chars += len(part)
            if num_chars > MAX_RENDERED_CHARS:
                raise ValueError(f"the prompt exceeds {MAX_RENDERED_CHARS} characters; send less")
            parts.append(part)
        return "".join(parts)


@final
class NoChatTemplate:
    """Stands in for the template of a model that has none."""

    def render(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
    ) -> str:
        """Refuse every chat.

        Raises: BadRequest, always.
        """
        raise BadRequest("this model has no chat template; send text", field="chat")


class _Generation(Extension):
    """The `{% generation %}` tag, which marks what an assistant wrote: it shows its body and does nothing else."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own protocol

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment(strftime_now: Callable[[str], str]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
