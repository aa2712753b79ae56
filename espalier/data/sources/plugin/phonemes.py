"""Speech as text: words with their phonemes, from a dictionary of pronunciations."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from espalier.data.pieces import Side
from espalier.data.sources.plugins import Document, PluginConfig, read_text
from espalier.errors import UserError

_VARIANT = re.compile(r"\(\d+\)$")


class PhonemesConfig(PluginConfig):
    """A document for each line `word<TAB>phonemes`, or `WORD  P H O N` as CMUdict writes it.

    All pronunciations of a word, `WORD(1)` among them, are in one split. Lines that begin with
    ;;; or # are comments. What espeak-ng printed (`word<TAB>fəˈniːm`) is read the same way.
    """

    files = "dictionaries with a word and its phonemes on each line"
    write: Literal["both", "phonemes"] = "both"
    """`word P H O N` or the phonemes alone."""
    stress: Literal["keep", "drop"] = "keep"
    """ARPAbet's digits (AH0) and IPA's ˈ ˌ."""

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        for file in files:
            for number, line in enumerate(read_text(file).splitlines(), start=1):
                if not line.strip() or line.startswith((";;;", "#")):
                    continue
                word, phonemes = _entry(line, f"{file}, line {number}")
                if self.stress == "drop":
                    phonemes = re.sub(r"(?<=[A-Z])\d\b|[ˈˌ]", "", phonemes)
                text = phonemes if self.write == "phonemes" else f"{word} {phonemes}"
                yield Document(text, _side(word, val_fraction))


def _entry(line: str, where: str) -> tuple[str, str]:
    word, tab, phonemes = line.partition("\t")
    if not tab:
        word, _, phonemes = line.partition(" ")
    if not word.strip() or not phonemes.strip():
        raise UserError(f"{where}: not a word, a tab (or spaces) and phonemes: {line!r}")
    return _VARIANT.sub("", word.strip()).lower(), " ".join(phonemes.split())


def _side(word: str, val_fraction: float) -> Side:
    """By the word's hash, so that its pronunciations stay together."""
    key = int.from_bytes(hashlib.sha256(word.encode("utf-8")).digest()[:8], "big")
    return "val" if key < val_fraction * 2**64 else "train"
