"""Conversations with images, before they are a corpus and after.

Content is a text, or parts: {"type": "text", "text": …} and {"type": "image", "image": …}. Before,
an image is a file or its bytes; after, in the corpus' `SPLIT.rows.jsonl`, its number in the album.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from espalier.data.chat import ANSWERS, Message, Shown
from espalier.errors import UserError

if TYPE_CHECKING:
    from espalier.data.corpus import Corpus

Split = Literal["train", "val"]


class Picture(NamedTuple):
    """An image that nobody has looked at yet."""

    source: Path | bytes
    name: str
    """as lists of what is left out call it"""


class Turn(NamedTuple):
    """A message."""

    role: str
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True)
class Sample:
    """One conversation."""

    id: str
    turns: tuple[Turn, ...]
    side: Split | None = None
    """None: as the hash of its first image says, or of its text"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """kept as they are: boxes, kinds, sources"""

    @property
    def pictures(self) -> list[Picture]:
        return [p for turn in self.turns for p in turn.parts if isinstance(p, Picture)]


class Fault(NamedTuple):
    """What is left out, and why."""

    what: str
    why: str


class Samples(Protocol):
    """Where samples come from; read once, in an order that is always the same."""

    def identity(self) -> dict[str, Any]:
        """What meta.json says of it."""
        ...

    def read(self) -> Iterator[Sample | Fault]: ...


class Told(NamedTuple):
    """A sample of a corpus, in words."""

    id: str
    messages: list[Message]
    images: list[int]
    """numbers in the album, in order"""
    facts: dict[str, Any]

    @property
    def question(self) -> list[Message]:
        """What comes before the last answer."""
        last = max(i for i, one in enumerate(self.messages) if one.role == ANSWERS)
        return self.messages[:last]

    @property
    def answer(self) -> str:
        """The last answer."""
        content = next(one.content for one in reversed(self.messages) if one.role == ANSWERS)
        return content if isinstance(content, str) else "".join(_texts(content))


def samples(corpus: Corpus, split: Split) -> Iterator[Told]:
    """The samples of a corpus with images, in the order of its tokens."""
    file = corpus.path / rows_file(split)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    for line in filter(None, text.split("\n")):  # splitlines would cut at U+2028 as well
        row = json.loads(line)
        messages = spoken(row)
        facts = {key: value for key, value in row.items() if key not in ("id", "messages")}
        yield Told(row["id"], messages, _images(messages), facts)


def rows_file(split: str) -> str:
    return f"{split}.rows.jsonl"


def lines(sample: Sample, numbers: Sequence[int]) -> dict[str, Any]:
    """The sample's line, its images being these."""
    left = iter(numbers)
    messages = [
        {"role": turn.role, "content": [_part(one, left) for one in turn.parts]}
        for turn in sample.turns
    ]
    return {"id": sample.id, "messages": messages, **sample.facts}


def _part(one: str | Picture, numbers: Iterator[int]) -> dict[str, Any]:
    if isinstance(one, str):
        return {"type": "text", "text": one}
    return {"type": "image", "image": next(numbers)}


def spoken(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a line."""
    return [Message(one["role"], _content(one["content"])) for one in row["messages"]]


def _content(parts: Sequence[Mapping[str, Any]]) -> str | tuple[str | Shown, ...]:
    """As messages have it: a text where there are no images in it."""
    found = [one["text"] if one["type"] == "text" else Shown(one["image"]) for one in parts]
    texts = _texts(found)
    return "".join(texts) if len(texts) == len(found) else tuple(found)


def _texts(parts: Sequence[str | Shown]) -> list[str]:
    return [part for part in parts if isinstance(part, str)]


def _images(messages: Sequence[Message]) -> list[int]:
    contents = (one.content for one in messages if not isinstance(one.content, str))
    return [part.number for content in contents for part in content if isinstance(part, Shown)]


def turns(record: Mapping[str, Any], folder: Path) -> tuple[Turn, ...]:
    """The messages of {"messages": [{"role": …, "content": …}, …]}, images below `folder`."""
    given = record.get("messages")
    if not isinstance(given, list):
        raise UserError('it has no messages: {"messages": [{"role": …, "content": …}, …]}')
    found = []
    for place, one in enumerate(given, 1):
        role, content = (one.get(k) for k in ("role", "content")) if _mapping(one) else (None, None)
        if not isinstance(role, str) or not role.isprintable():
            raise UserError(f"message {place} has no role")
        parts = [content] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise UserError(f"message {place} has no content, a text or a list of parts")
        found.append(Turn(role, tuple(_given(part, folder, place) for part in parts)))
    return tuple(found)


def _given(part: Any, folder: Path, place: int) -> str | Picture:
    if isinstance(part, str):
        return part
    if _mapping(part) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if _mapping(part) and part.get("type") == "image":
        return picture(part.get("image", part.get("path", part.get("url"))), folder)
    raise UserError(f"message {place} has a part that is neither text nor image")


def picture(given: Any, folder: Path) -> Picture:
    """An image as records hold it: a path below `folder`, bytes, {"bytes", "path"}, or Pillow's."""
    if _mapping(given):
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes):
        return Picture(given, "its image")
    if isinstance(given, str) and given:
        if "://" in given[:12]:
            raise UserError(f"{given[:60]} is no file here: fetch it first")
        place = Path(given)
        if place.is_absolute() or ".." in place.parts or place.drive:
            raise UserError(f"{given} leads out of {folder}: images lie below it")
        return Picture(folder / place, given)
    if hasattr(given, "save"):
        return Picture(_saved(given), "its image")
    raise UserError("it names no image")


def _saved(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _mapping(value: object) -> bool:
    return isinstance(value, Mapping)
