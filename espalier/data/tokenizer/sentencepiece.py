"""SentencePiece: a model trained here on the text at hand, or somebody's .model file, whole.

Trained here it gives every text back exactly: nothing is normalised, a line's end is a piece of its
own, and what no piece fits is written in bytes. A foreign model decodes to what its own
normalisation left of the text.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, checked, scrub
from espalier.errors import UserError, need

SPACE = "▁"  # stands for a space inside pieces, and so cannot stand for itself


class SentencePieceTokenizer:
    """`model` is the content of a .model file; the end of text is its `</s>`, where it has one."""

    def __init__(self, model: bytes):
        library = need("sentencepiece", "hf")
        try:
            self._inner = library.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError("this is no SentencePiece model") from None
        self.model = model
        self.vocab_size = int(self._inner.vocab_size())
        self.eot: int | None = self._inner.eos_id() if self._inner.eos_id() >= 0 else None
        kinds = [self._inner.is_byte(i) for i in range(self.vocab_size)]
        self.fallback = np.array(kinds, bool) if any(kinds) else None
        self._literal = [self._inner.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode("utf-8")]

    def pieces(self) -> list[str]:
        """Every piece, by id."""
        return [self._inner.id_to_piece(i) for i in range(self.vocab_size)]

    def encode(self, text: str) -> Ids:
        clean = scrub(text)
        if self.fallback is None or SPACE not in clean:
            return np.array(self._inner.encode(clean), np.int64)
        first, *rest = (self._inner.encode(part) for part in clean.split(SPACE))
        found = list(first)
        for ids in rest:
            found += [*self._literal, *ids]
        return np.array(found, np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        wanted = checked(ids, self.vocab_size)
        parts = np.split(wanted, np.flatnonzero(wanted == (-1 if self.eot is None else self.eot)))
        texts = [part[part != self.eot].tolist() for part in parts]  # all but the first had an end
        return END_OF_TEXT.join(self._inner.decode(part) for part in texts)

    def spec(self) -> dict[str, Any]:
        return {
            "name": "sentencepiece",
            "sha256": hashlib.sha256(self.model).hexdigest(),
            "model": base64.b64encode(self.model).decode("ascii"),
        }


def from_spec(spec: dict[str, Any]) -> SentencePieceTokenizer:
    """The stored tokenizer, its hash checked."""
    model = base64.b64decode(spec["model"])
    if hashlib.sha256(model).hexdigest() != spec["sha256"]:
        raise UserError("the stored tokenizer does not match its own hash: the file was changed")
    return SentencePieceTokenizer(model)


def from_file(file: Path) -> SentencePieceTokenizer:
    """A .model file."""
    try:
        return SentencePieceTokenizer(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def train(texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
    """Learn byte pairs, at most `vocab_size` ids (fewer where the text has no more pairs)."""
    library = need("sentencepiece", "hf")
    model = io.BytesIO()
    lines = (line for text in texts for line in scrub(text).split("\n") if line)
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            max_sentence_length=1 << 16,
            user_defined_symbols=["\n"],
            minloglevel=2,
        )
    except RuntimeError as error:
        why = str(error).rpartition("] ")[2].split(". ")[0]
        raise UserError(f"--vocab-size {vocab_size}: SentencePiece says: {why}") from None
    return SentencePieceTokenizer(model.getvalue())
