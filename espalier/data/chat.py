"""Conversations as token ids: templates, what is learnt of each message, what ends an answer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from espalier.config import Config, decode
from espalier.data.tokenizer.base import END_OF_TEXT, Tokenizer
from espalier.data.tokenizer.special import SpecialTokenizer
from espalier.durable import read_json
from espalier.errors import UserError, nearest
from espalier.tree import read_yaml

TEMPLATES = Path(__file__).with_name("templates.yaml")
ANSWERS = "assistant"


class Shown(NamedTuple):
    """An image in a message: content of its own, which no text can stand for."""

    number: int
    """which of the images that whoever asks knows"""


class Message(NamedTuple):
    role: str
    content: str | tuple[str | Shown, ...]


class Spelled(NamedTuple):
    """Token ids, and of each whether it is learnt."""

    ids: list[int]
    learnt: list[bool]
    places: list[int]
    """of each image, the token that it stands before; images take no tokens"""
    images: list[int]
    """their numbers"""


class Template(Config):
    """How messages are written one after another; see templates.yaml."""

    special: tuple[str, ...] = ()
    begin: str = ""
    before: str
    after: str
    stop: str = Field(min_length=1)
    end: str = END_OF_TEXT
    system: Literal["apart", "joined"] = "apart"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.after.startswith(self.stop):
            raise ValueError("`after` must begin with `stop`")
        if self.end not in (END_OF_TEXT, *self.special):
            raise ValueError(f"`end` must be one of `special`, or {END_OF_TEXT}")
        return self

    def filled(self, text: str, role: str) -> str:
        return text.replace("{role}", role).replace("{Role}", role.capitalize())


class Speaker:
    """A template and a tokenizer that has its special tokens."""

    def __init__(self, template: Template, tokenizer: Tokenizer):
        """`tokenizer` as `widened` gave it; UserError for one without the template's tokens."""
        self.template, self.tokenizer = template, tokenizer
        known: Mapping[str, int] = getattr(tokenizer, "special", {})
        if missing := [token for token in template.special if token not in known]:
            raise UserError(f"the tokenizer has no {', '.join(missing)}, of the chat template")
        self.special = {token: known[token] for token in template.special}
        self.plain = tokenizer.inner if isinstance(tokenizer, SpecialTokenizer) else tokenizer
        named = "|".join(map(re.escape, self.special)) or "(?!)"
        self._pattern = re.compile(f"({named})")
        self.end = self.special.get(template.end, tokenizer.eot)

    def conversation(self, messages: Sequence[Message]) -> Spelled:
        """All of it, closed by the template's end; answers are learnt, and how they end."""
        assert self.end is not None
        found = self._begun(messages)
        last = bool(messages) and messages[-1].role == ANSWERS
        found.ids.append(self.end)
        found.learnt.append(last)
        return found

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The conversation so far, and the beginning of an answer."""
        return self.asked(messages).ids

    def asked(self, messages: Sequence[Message]) -> Spelled:
        """As `prompt`, with the places of images."""
        found = self._begun(messages)
        head = self._written(self.template.filled(self.template.before, ANSWERS))
        found.ids.extend(head)
        found.learnt.extend([False] * len(head))
        return found

    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        ends = [self.end, self.special.get(self._stop)]
        return [one for one in ends if one is not None]

    def stop_texts(self) -> list[str]:
        """Texts that end one, where no token does."""
        return [] if self._stop in self.special else [self._stop]

    @property
    def _stop(self) -> str:
        return self.template.filled(self.template.stop, ANSWERS)

    def _begun(self, messages: Sequence[Message]) -> Spelled:
        found = Spelled(self._written(self.template.begin), [], [], [])
        found.learnt.extend([False] * len(found.ids))
        if self.template.system == "joined":
            messages = _joined(messages)
        for message in messages:
            self._add(found, message)
        return found

    def _add(self, found: Spelled, message: Message) -> None:
        """Write a message behind what is there."""
        stop, rest = self.template.stop, self.template.after.removeprefix(self.template.stop)
        fixed = [self.template.filled(text, message.role) for text in (self.template.before, stop)]
        answer = message.role == ANSWERS
        said = [message.content] if isinstance(message.content, str) else message.content
        parts: list[tuple[list[int] | Shown, bool]] = [(self._written(fixed[0]), False)]
        parts += [(one if isinstance(one, Shown) else self._said(one), answer) for one in said]
        parts += [(self._written(fixed[1]), answer)]
        parts += [(self._written(self.template.filled(rest, message.role)), False)]
        for part, counts in parts:
            if isinstance(part, Shown):
                found.places.append(len(found.ids))
                found.images.append(part.number)
            else:
                found.ids.extend(part)
                found.learnt.extend([counts] * len(part))

    def _said(self, text: str) -> list[int]:
        ids: list[int] = self.plain.encode(text).tolist()
        return ids

    def _written(self, text: str) -> list[int]:
        """A text of the template's own, in which special tokens are themselves."""
        found: list[int] = []
        for part in self._pattern.split(text):
            if part in self.special:
                found.append(self.special[part])
            elif part:
                found += self.plain.encode(part).tolist()
        return found


def _joined(messages: Sequence[Message]) -> Sequence[Message]:
    """What the system says first, a blank line, then the first that somebody else says."""
    if len(messages) < 2 or messages[0].role != "system":
        return messages
    (_, before), (role, content), *others = messages
    parts = [*_parts(before), "\n\n", *_parts(content)]
    texts = [part for part in parts if isinstance(part, str)]
    whole = "".join(texts) if len(texts) == len(parts) else tuple(parts)
    return [Message(role, whole), *others]


def _parts(content: str | tuple[str | Shown, ...]) -> tuple[str | Shown, ...]:
    return (content,) if isinstance(content, str) else content


def named(name: str) -> Template:
    """A template of templates.yaml, or of a YAML file of its own."""
    if name.endswith((".yaml", ".yml")):
        return decode(Template, read_yaml(Path(name)).tree, name)
    known = read_yaml(TEMPLATES).tree
    if name not in known:
        hint = nearest(name, known) or f" Known: {', '.join(known)}."
        raise UserError(f"no chat template named '{name}'.{hint} One of your own is a .yaml file")
    return decode(Template, known[name], f"{TEMPLATES.name}: {name}")


def kept(file: Path) -> Template | None:
    """The template of a chat.json, if there is one."""
    return decode(Template, read_json(file), str(file)) if file.is_file() else None


def widened(tokenizer: Tokenizer, template: Template, *others: str) -> Tokenizer:
    """The tokenizer with the template's special tokens and end, and `others`, behind its last."""
    known: Mapping[str, int] = getattr(tokenizer, "special", {})
    ends = template.end == END_OF_TEXT and tokenizer.eot is None
    wanted = [*template.special, *([END_OF_TEXT] if ends else []), *others]
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
