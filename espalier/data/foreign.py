"""nanoGPT's own directories: train.bin, val.bin and, for characters, meta.pkl."""

import io
import pickle
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
    if "stoi" in meta and "tokenizer" not in meta:
        found["tokenizer"] = {"name": "char", "symbols": _symbols(file, meta), "eot": None}
    elif isinstance(meta.get("tiktoken_encoding"), str):
        found["encoding"] = meta["tiktoken_encoding"]
    return found


def tokenizer(meta: dict[str, Any], folder: Path) -> Tokenizer:
    """The tokenizer of such a directory; UserError where it cannot be known."""
    from espalier.data.tokenizer import choose, load

    if "tokenizer" in meta:
        return load(meta["tokenizer"])
    if "encoding" not in meta:
        raise UserError(f"{folder / 'meta.pkl'} does not say how its text was tokenised")
    try:
        return choose(meta["encoding"])
    except MachineError as error:
        raise MachineError(f"{folder} holds {meta['encoding']} tokens: {error}") from None


def _symbols(file: Path, meta: dict[str, Any]) -> str:
    table = meta["stoi"]
    try:
        ordered = sorted(table, key=table.__getitem__)
        ids = [table[symbol] for symbol in ordered]
        if ids == list(range(len(ids))) and all(len(symbol) == 1 for symbol in ordered):
            return "".join(ordered)
    except (TypeError, AttributeError):
        pass
    raise UserError(f"{file}: stoi is not a table of single characters with ids 0, 1, 2 ...")
