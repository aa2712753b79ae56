"""nanoGPT's own directories, and those of ReaLLM-Forge: train.bin, val.bin and a meta.pkl."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.data.tokenizer.base import Tokenizer
from espalier.errors import MachineError, UserError

GPT2_SIZE = 50257


class _PlainUnpickler(pickle.Unpickler):  # noqa: S301 - it can name nothing, so run nothing
    """Reads plain containers, numbers and text; whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(
            f"it names {module}.{name}; only dict, list, str, int and the like are read"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise UserError("it refers to objects outside itself")


def read_meta(file: Path) -> dict[str, Any]:
    """A nanoGPT `meta.pkl`, read without running anything in it."""
    try:
        meta = _PlainUnpickler(io.BytesIO(file.read_bytes())).load()
    except UserError as error:
        raise UserError(f"{file} is refused: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{file} is not a meta.pkl: {error}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("vocab_size"), int):
        raise UserError(f"{file} has no vocab_size")
    return meta


def describe(folder: Path) -> dict[str, Any]:
    """What our own meta.json would say of a nanoGPT directory, as far as it can be known."""
    file = folder / "meta.pkl"
    if not file.exists():
        note = "no meta.pkl: taken for GPT-2 tokens, vocabulary 50257, as nanoGPT does"
        return {"format": "nanogpt", "vocab_size": GPT2_SIZE, "encoding": "gpt2", "note": note}
    meta = read_meta(file)
    found: dict[str, Any] = {"format": "nanogpt", "vocab_size": meta["vocab_size"]}
    kind = meta.get("tokenizer")
    if isinstance(meta.get("tiktoken_encoding"), str):
        found["encoding"] = meta["tiktoken_encoding"]
        special = _special(file, meta)
        if special:
            found["special"] = special
        # its writer counts neither the published special tokens nor gaps before its own
        found["vocab_size"] = max(meta["vocab_size"], _end(found["encoding"], special))
    elif kind in ("custom_char_with_byte_fallback", "json_byte_fallback"):
        found["tokenizer"] = _with_bytes(file, meta)
    elif kind == "sentencepiece":
        found["pieces"] = _texts_by_id(file, meta)
    elif "stoi" in meta and kind in (None, "char", "custom"):
        found["tokenizer"] = _listed(file, meta)
    return found


def tokenizer(meta: dict[str, Any], folder: Path) -> Tokenizer:
    """The tokenizer of such a directory; UserError where it cannot be known."""
    from espalier.data.tokenizer import choose, load
    from espalier.data.tokenizer.special import SpecialTokenizer

    if "tokenizer" in meta:
        return load(meta["tokenizer"])
    if "pieces" in meta:
        return _model_beside(folder, meta["pieces"])
    if "encoding" not in meta:
        raise UserError(f"{folder / 'meta.pkl'} does not say how its text was tokenised")
    try:
        inner = choose(meta["encoding"])
    except MachineError as error:
        raise MachineError(f"{folder} holds {meta['encoding']} tokens: {error}") from None
    return SpecialTokenizer(inner, meta["special"]) if "special" in meta else inner


def _listed(file: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Characters, or a list of texts of which the first that fits was taken."""
    from espalier.data.tokenizer.custom import shadowed

    ordered = _texts_by_id(file, meta)
    if all(len(text) == 1 for text in ordered):
        return {"name": "char", "symbols": "".join(ordered), "eot": None}
    ids = {text: i for i, text in enumerate(ordered)}
    return _custom(ids, None, sorted(shadowed(ordered)))


def _with_bytes(file: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Bytes as ids 0 to 255, and a list of texts of which the first that fits was taken."""
    from espalier.data.tokenizer.custom import shadowed

    table = meta.get("stoi")
    tokens = meta.get("custom_chars") or meta.get("custom_tokens")
    if not isinstance(tokens, (list, tuple)) and isinstance(table, Mapping):
        tokens = [key for key in table if isinstance(key, str)]
    if not isinstance(tokens, (list, tuple)) or not all(isinstance(t, str) for t in tokens):
        raise UserError(f"{file} lists no tokens beside its bytes")
    ids = {token: 256 + i for i, token in enumerate(tokens)}
    if isinstance(table, Mapping):
        ids = {token: table.get(token, i) for token, i in ids.items()}
        wrong = [value for value in range(256) if table.get(bytes([value]), value) != value]
        if wrong or not all(type(i) is int for i in ids.values()):
            raise UserError(f"{file}: its bytes are not the ids 0 to 255")
    return _custom(ids, list(range(256)), sorted(shadowed(tokens)))


def _custom(
    tokens: dict[str, int], byte_ids: list[int] | None, unread: list[str]
) -> dict[str, Any]:
    spec = {"tokens": tokens, "byte_ids": byte_ids, "unread": unread, "eot": None}
    return {"name": "custom"} | spec


def _special(file: Path, meta: dict[str, Any]) -> dict[str, int]:
    found = meta.get("special_tokens") or {}
    if isinstance(found, Mapping) and all(
        isinstance(token, str) and token and type(i) is int and i >= 0 for token, i in found.items()
    ):
        return dict(found)
    raise UserError(f"{file}: special_tokens is not a table from texts to ids")


def _end(encoding: str, special: Mapping[str, int]) -> int:
    """The id behind the last special token, published ones included."""
    from espalier.data.tokenizer.tiktoken import ENCODINGS

    published = ENCODINGS[encoding].special if encoding in ENCODINGS else {}
    return max([*published.values(), *special.values()], default=-1) + 1


def _texts_by_id(file: Path, meta: dict[str, Any]) -> list[str]:
    """The keys of `stoi`, which must be texts with the ids 0, 1, 2 …"""
    table: Any = meta.get("stoi")
    try:
        ordered = sorted(table, key=table.__getitem__)
        ids = [table[text] for text in ordered]
        if ids == list(range(len(ids))) and all(isinstance(t, str) and t for t in ordered):
            return ordered
    except (TypeError, AttributeError):
        pass
    raise UserError(f"{file}: stoi is not a table of texts with ids 0, 1, 2 ...")


def _model_beside(folder: Path, pieces: list[str]) -> Tokenizer:
    """The .model file in a folder whose pieces are these; a meta.pkl does not hold the model."""
    from espalier.data.tokenizer.sentencepiece import from_file

    for file in sorted(folder.glob("*.model")):
        found = from_file(file)
        if found.pieces() == pieces:
            return found
    raise UserError(
        f"{folder} holds SentencePiece tokens, and no .model file there has these "
        f"{len(pieces)} pieces: copy the one it was made with beside meta.pkl"
    )
