"""The texts that models are judged on: whole documents, the same for every tokenizer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from espalier.data.corpus import Corpus
from espalier.data.download import Retry
from espalier.data.request import Request
from espalier.data.sources import find
from espalier.data.tokenizer.base import Tokenizer
from espalier.errors import UserError

Ids = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """A text, and its ids where it comes from a prepared corpus."""

    text: str
    ids: Ids | None = None

    @property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True)
class Text:
    """Documents in their order; `spec` is the tokenizer that wrote their ids."""

    name: str
    documents: tuple[Document, ...]
    spec: dict[str, Any] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over those of the documents: the same for the same texts."""
        found = hashlib.sha256()
        for document in self.documents:
            found.update(hashlib.sha256(document.text.encode("utf-8")).digest())
        return found.hexdigest()

    def spelled(self, tokenizer: Tokenizer) -> list[Ids]:
        """Ids of each document, as they were prepared where the tokenizer is the same.

        Raises UserError for a character that the tokenizer cannot write.
        """
        if self.spec is not None and self.spec == tokenizer.spec():
            return [one.ids for one in self.documents if one.ids is not None]
        return tokenizer.encode_batch([one.text for one in self.documents])


def read(place: str, most: int | None, note: Callable[[str], None] = lambda text: None) -> Text:
    """The validation split of a prepared corpus, or all of whatever `prepare` reads.

    A document ends at the corpus' end-of-text token; without one the split is one document. At
    most `most` documents are taken, evenly spread. UserError where there is nothing to read.
    """
    folder = Path(place)
    if (folder / "meta.json").is_file() or (folder / "val.bin").is_file():
        corpus = Corpus.open(folder)
        pieces = spread(_cut(corpus), most)
        decode = corpus.tokenizer.decode
        documents = tuple(Document(decode(ids), ids) for ids in pieces)
        return Text(place, documents, corpus.tokenizer.spec())
    texts = [text for text in _texts(place, note) if text.strip()]
    if not texts:
        raise UserError(f"{place} holds no text to evaluate on")
    return Text(place, tuple(Document(text) for text in spread(texts, most)))


def _cut(corpus: Corpus) -> list[Ids]:
    ids = corpus.val.gather([0], len(corpus.val))[0]
    end = corpus.tokenizer.eot
    if end is None:
        return [ids]
    parts = np.split(ids, np.flatnonzero(ids == end) + 1)
    whole = [part[part != end] for part in parts]
    return [part for part in whole if len(part)]


def _texts(place: str, note: Callable[[str], None]) -> list[str]:
    source = find(Request(place, Path("unused")), note, Retry(note=note)).source
    texts: list[str] = []
    parts: list[str] = []
    for piece in source.read(None, Counter()):
        parts.append(piece.text)
        if piece.last:
            texts.append("".join(parts))
            parts = []
    return [*texts, "".join(parts)] if parts else texts


def spread(items: Sequence[T], most: int | None) -> Sequence[T]:
    """At most `most` of them, evenly spread; all when None."""
    if most is None or most >= len(items):
        return items
    return [items[i * len(items) // most] for i in range(most)]
