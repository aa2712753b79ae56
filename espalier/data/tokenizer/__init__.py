"""Tokenizers: chosen by name, trained on a text, or loaded whole from their JSON."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from espalier.data.download import Retry
from espalier.data.tokenizer.base import END_OF_TEXT, Ids, Tokenizer
from espalier.errors import MachineError, UserError, nearest, need

__all__ = ["END_OF_TEXT", "NAMES", "TRAINED", "Ids", "Tokenizer", "choose", "load", "train"]

TRAINED = ("char", "bpe")
"""Tokenizers that are made from the text itself."""
ALIASES = {"gpt-neox": "EleutherAI/gpt-neox-20b"}
PUBLISHED = ("gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base")
NAMES = (*TRAINED, "byte", *PUBLISHED, *ALIASES)


def load(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `spec()` described; UserError when it is damaged or unknown."""
    from espalier.data.tokenizer import bpe, byte, char, hf, ranks, tiktoken

    try:
        name = spec["name"]
        if name == "char":
            return char.CharTokenizer(spec["symbols"], spec["eot"])
        if name == "byte":
            return byte.ByteTokenizer(spec["eot"])
        if name == "bpe":
            table, pattern, _ = ranks.read_spec(spec)
            return bpe.BpeTokenizer(table, pattern)
        if name == "tiktoken":
            return tiktoken.TiktokenTokenizer(spec["encoding"], *ranks.read_spec(spec))
        if name == "hf":
            return hf.from_spec(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the stored tokenizer is incomplete: {error}") from None
    raise UserError(f"the stored tokenizer is of an unknown kind: {name!r}")


def check_name(name: str) -> None:
    """UserError, with the nearest name, unless `name` can be a tokenizer."""
    if name in NAMES or name.startswith("hf:") or Path(name).exists():
        return
    known = ", ".join(NAMES)
    raise UserError(
        f"no tokenizer named '{name}'.{nearest(name, NAMES)} Known: {known}, "
        "hf:ID, or a tokenizer.json."
    )


def choose(
    name: str, vocab: Path | None = None, eot: int | None = None, retry: Retry | None = None
) -> Tokenizer:
    """A tokenizer that needs no training: `byte`, a published encoding, `hf:ID`, a tokenizer.json.

    `vocab` is a local vocabulary file or folder, looked at before any cache or network; `eot` is
    the byte tokenizer's end of text (256) where documents must be parted.
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
    return _hugging_face(name, vocab)


def train(name: str, texts: Iterable[str], vocab_size: int, end: str | None = None) -> Tokenizer:
    """A `char` tokenizer of every symbol in `texts`, or a `bpe` of `vocab_size` ids from them.

    A character vocabulary has an end of text only where `end` asks for one; a bpe always.
    """
    if name == "bpe":
        from espalier.data.tokenizer.bpe import train as train_bpe

        return train_bpe(texts, vocab_size)
    from espalier.data.tokenizer.char import CharTokenizer, symbols

    found = symbols(texts)
    return CharTokenizer(found, None if end is None else len(found))


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
            "Offline: copy its tokenizer.json here and pass it with --vocab FILE."
        ) from None
    return HfTokenizer(inner.to_str(), identity)
