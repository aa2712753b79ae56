"""nanochat's tokenizer.pkl: a pickled tiktoken Encoding, of which the numbers alone are read."""

import io
import pickle
from pathlib import Path
from typing import Any

from espalier.data.tokenizer.tiktoken import TiktokenTokenizer
from espalier.errors import UserError

FIELDS = {"name": str, "pat_str": str, "mergeable_ranks": dict, "special_tokens": dict}


class _Encoding:
    """Stands in for the class that the file names, and keeps what it would be given."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):  # noqa: S301 - it knows one class, which does nothing
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tiktoken.core", "Encoding"):
            return _Encoding
        raise UserError(f"it names {module}.{name}; only a tiktoken Encoding is read")

    def persistent_load(self, pid: Any) -> Any:
        raise UserError("it refers to objects outside itself")


def read(file: Path) -> TiktokenTokenizer:
    """The tokenizer, read without running anything in the file. UserError where it is no such."""
    try:
        found = _Unpickler(io.BytesIO(file.read_bytes())).load()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{file} is refused: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{file} is no pickled Encoding: {error}") from None
    state = found.state if isinstance(found, _Encoding) else None
    if not isinstance(state, dict) or not all(
        isinstance(state.get(field), kind) for field, kind in FIELDS.items()
    ):
        raise UserError(f"{file} holds no Encoding with its own ranks and special tokens")
    ranks, special = state["mergeable_ranks"], state["special_tokens"]
    if not _table(ranks, bytes) or not _table(special, str):
        raise UserError(f"{file}: its ranks or special tokens are no table of ids")
    return TiktokenTokenizer(state["name"], ranks, state["pat_str"], special)


def _table(found: dict[Any, Any], kind: type) -> bool:
    return all(isinstance(key, kind) and type(i) is int and i >= 0 for key, i in found.items())
