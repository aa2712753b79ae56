"""Conversations as token ids: templates, what is learnt of each message, what ends an answer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from espalier.config import Config, decode
from espalier.data.tokenizer.base import END_OF_TEXT, Tokenizer
from espalier.data.tokenizer.special import SpecialTokenizer
from espalier.errors import UserError, nearest
from espalier.tree import read_yaml

TEMPLATES = Path(__file__).with_name("templates.yaml")
ANSWERS = "assistant"


class Message(NamedTuple):
    role: str
    content: str


class Spelled(NamedTuple):
    """Token ids, and of each whether it is learnt."""

    ids: list[int]
    learnt: list[bool]


class Template(Config):
    """How messages are written one after another; see templates.yaml."""

    special: tuple[str, ...] = ()
    begin: str = ""
    before: str
    after: str
    stop: str = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.after.startswith(self.stop):
            raise ValueError("`after` must begin with `stop`")
        return self


class Speaker:
    """A template and a tokenizer that has its special tokens."""

    def __init__(self, template: Template, tokenizer: Tokenizer):
        """`tokenizer` as `widened` gave it."""
        self.template, self.tokenizer = template, tokenizer
        known: Mapping[str, int] = getattr(tokenizer, "special", {})
        self.special = {token: known[token] for token in template.special}
        self.plain = tokenizer.inner if isinstance(tokenizer, SpecialTokenizer) else tokenizer
        named = "|".join(map(re.escape, self.special)) or "(?!)"
        self._pattern = re.compile(f"({named})")

    def conversation(self, messages: Sequence[Message]) -> Spelled:
        """All of it, closed by the end of text; answers are learnt, and how they end."""
        assert self.tokenizer.eot is not None
        found = self._begun(messages)
        last = bool(messages) and messages[-1].role == ANSWERS
        found.ids.append(self.tokenizer.eot)
        found.learnt.append(last)
        return found

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The conversation so far, and the beginning of an answer."""
        return self._begun(messages).ids + self._written(self._head(ANSWERS))

    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        stop = self.special.get(self.template.stop)
        ends = [self.tokenizer.eot, stop]
        return [one for one in ends if one is not None]

    def stop_texts(self) -> list[str]:
        """Texts that end one, where no token does."""
        return [] if self.template.stop in self.special else [self.template.stop]

    def _begun(self, messages: Sequence[Message]) -> Spelled:
        ids, learnt = self._written(self.template.begin), list[bool]()
        learnt += [False] * len(ids)
        stop, rest = self.template.stop, self.template.after.removeprefix(self.template.stop)
        for message in messages:
            answer = message.role == ANSWERS
            for piece, counts in (
                (self._written(self._head(message.role)), False),
                (self.plain.encode(message.content).tolist(), answer),
                (self._written(stop), answer),
                (self._written(rest), False),
            ):
                ids += piece
                learnt += [counts] * len(piece)
        return Spelled(ids, learnt)

    def _head(self, role: str) -> str:
        return self.template.before.replace("{role}", role).replace("{Role}", role.capitalize())

    def _written(self, text: str) -> list[int]:
        """A text of the template's own, in which special tokens are themselves."""
        found: list[int] = []
        for part in self._pattern.split(text):
            if part in self.special:
                found.append(self.special[part])
            elif part:
                found += self.plain.encode(part).tolist()
        return found


def named(name: str) -> Template:
    """A template of templates.yaml, or of a YAML file of its own."""
    if name.endswith((".yaml", ".yml")):
        return decode(Template, read_yaml(Path(name)).tree, name)
    known = read_yaml(TEMPLATES).tree
    if name not in known:
        hint = nearest(name, known) or f" Known: {', '.join(known)}."
        raise UserError(f"no chat template named '{name}'.{hint} One of your own is a .yaml file")
    return decode(Template, known[name], f"{TEMPLATES.name}: {name}")


def widened(tokenizer: Tokenizer, template: Template) -> Tokenizer:
    """The tokenizer with the template's special tokens and an end of text, behind its last id."""
    known: Mapping[str, int] = getattr(tokenizer, "special", {})
    wanted = [*template.special, *([END_OF_TEXT] if tokenizer.eot is None else [])]
    missing = [token for token in wanted if token not in known]
    if not missing:
        return tokenizer
    more = {token: tokenizer.vocab_size + i for i, token in enumerate(missing)}
    plain = tokenizer.inner if isinstance(tokenizer, SpecialTokenizer) else tokenizer
    return SpecialTokenizer(plain, {**known, **more})


def messages(record: Any, where: str) -> list[Message]:
    """The messages of one record, {"messages": [{"role": ..., "content": ...}, ...]}.

    UserError, beginning with `where`, for a record of another form, or without an answer.
    """
    given = record.get("messages") if isinstance(record, Mapping) else None
    if not isinstance(given, list) or not given:
        raise UserError(f'{where}: no messages: a line is {{"messages": [{{"role": …}}, …]}}')
    found = []
    for place, one in enumerate(given, 1):
        role, content = (
            (one.get("role"), one.get("content")) if isinstance(one, Mapping) else (None, None)
        )
        if not isinstance(role, str) or not isinstance(content, str) or not role.isprintable():
            raise UserError(f"{where}: message {place} has no role and content, both texts")
        found.append(Message(role, content))
    if not any(message.role == ANSWERS for message in found):
        raise UserError(f"{where}: nobody answers: no message is of the role {ANSWERS}")
    return found
