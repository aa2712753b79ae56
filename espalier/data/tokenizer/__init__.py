"""Tokenizers: chosen by name, trained on a text, or loaded whole from their JSON."""

import binascii
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from espalier.data.download import Retry
from espalier.data.tokenizer.base import END_OF_TEXT, Ids, Tokenizer, fallback
from espalier.errors import MachineError, UserError, nearest, need

__all__ = [
    "ALIASES",
    "END_OF_TEXT",
    "NAMES",
    "PUBLISHED",
    "SIZED",
    "TRAINED",
    "Ids",
    "Tokenizer",
    "choose",
    "fallback",
    "load",
    "train",
]

TRAINED = ("char", "bpe", "sentencepiece")
"""Tokenizers that are made from the text itself."""
SIZED = ("bpe", "sentencepiece")
"""Those of them whose size is chosen."""
LISTS = ("custom", "custom-byte", "json")
"""Tokenizers that are a file: NAME:FILE."""
ALIASES = {"gpt-neox": "EleutherAI/gpt-neox-20b"}
PUBLISHED = ("gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base")
NAMES = (*TRAINED, "byte", *PUBLISHED, *ALIASES)
STORED = ("bpe", "byte", "char", "custom", "hf", "sentencepiece", "special", "tiktoken")


def load(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `spec()` described; UserError when it is damaged or unknown."""
    try:
        name = spec["name"]
        if name not in STORED:
            raise UserError(f"the stored tokenizer is of an unknown kind: {name!r}")
        module = importlib.import_module(f"espalier.data.tokenizer.{name}")
        found: Tokenizer = module.from_spec(spec)
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise UserError(f"the stored tokenizer is incomplete: {error}") from None
    return found


def check_name(name: str) -> None:
    """UserError, with the nearest name, unless `name` can be a tokenizer."""
    kind, _, file = name.partition(":")
    if kind in LISTS or (kind == "sentencepiece" and file):
        if not file:
            raise UserError(f"say which list: {kind}:FILE")
        if not Path(file).is_file():
            raise UserError(f"--tokenizer {name}: no file {file}")
        return
    if name in NAMES or name.startswith("hf:") or Path(name).exists():
        return
    known = ", ".join((*NAMES, *(f"{kind}:FILE" for kind in LISTS)))
    raise UserError(
        f"no tokenizer named '{name}'.{nearest(name, (*NAMES, *LISTS))} Known: {known}, "
        "sentencepiece:FILE, hf:ID, a tokenizer.json, or a corpus."
    )


def choose(
    name: str, vocab: Path | None = None, eot: int | None = None, retry: Retry | None = None
) -> Tokenizer:
    """A tokenizer that needs no training: by name, `NAME:FILE`, `hf:ID`, a file, or a corpus' own.

    `vocab` is a local vocabulary file or folder, looked at before any cache or network; `eot` is
    the byte tokenizer's end of text (256) where documents must be parted. A list of tokens has one
    then, too, behind its last id.
    """
    check_name(name)
    if name in TRAINED:
        raise UserError(f"a {name} tokenizer is made from a text: espalier prepare does it")
    if name == "byte":
        from espalier.data.tokenizer.byte import ByteTokenizer

        return ByteTokenizer(eot)
    if name in PUBLISHED:
        from espalier.data.tokenizer.tiktoken import published

        return published(name, vocab, retry)
    kind, _, file = name.partition(":")
    if kind in LISTS:
        from espalier.data.tokenizer import custom

        read = {"custom": custom.listed, "custom-byte": custom.with_bytes, "json": custom.of_json}
        return read[kind](Path(file), eot)
    if kind == "sentencepiece":
        from espalier.data.tokenizer.sentencepiece import from_file

        return from_file(Path(file))
    if (Path(name) / "meta.json").is_file():
        return _of_corpus(Path(name) / "meta.json")
    if name.endswith(".pkl"):
        from espalier.data.tokenizer.pickled import read as read_pickle

        return read_pickle(Path(name))
    return _hugging_face(name, vocab)


def train(name: str, texts: Iterable[str], vocab_size: int, end: str | None = None) -> Tokenizer:
    """A `char` tokenizer of every symbol in `texts`, or another of `vocab_size` ids from them.

    A character vocabulary has an end of text only where `end` asks for one; the others always.
    """
    if name in SIZED:
        module = importlib.import_module(f"espalier.data.tokenizer.{name}")
        trained: Tokenizer = module.train(texts, vocab_size)
        return trained
    from espalier.data.tokenizer.char import CharTokenizer, symbols

    found = symbols(texts)
    return CharTokenizer(found, None if end is None else len(found))


def _of_corpus(file: Path) -> Tokenizer:
    try:
        return load(json.loads(file.read_text(encoding="utf-8"))["tokenizer"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} brings no tokenizer: {error}") from None


def _hugging_face(name: str, vocab: Path | None) -> Tokenizer:
    from espalier.data.tokenizer.hf import HfTokenizer, compact

    identity = ALIASES.get(name, name.removeprefix("hf:"))
    file = vocab or Path(name.removeprefix("hf:"))
    if vocab is not None or file.exists():
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            source = file.read_text(encoding="utf-8")
            return HfTokenizer(compact(source), identity if vocab else file.name)
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"{file} is not a Hugging Face tokenizer.json: {error}") from None
    try:
        inner = need("tokenizers", "hf").Tokenizer.from_pretrained(identity)
    except Exception as error:  # the hub client raises a bare Exception for whatever goes wrong
        if isinstance(error, MachineError):
            raise
        reason = str(error).split("\n", maxsplit=1)[0]
        raise MachineError(
            f"cannot get the tokenizer {identity} from the Hugging Face hub ({reason}).\n"
            "Offline: copy its tokenizer.json here and name it: --tokenizer FILE."
        ) from None
    return HfTokenizer(inner.to_str(), identity)
