"""Sources that are programs: `espalier prepare NAME [FILE…] [setting=value…]`.

A plug-in is a file with one class that extends `PluginConfig`: a file of the folder `plugin`, found
by its name, or somebody's own, by its path. `espalier prepare new NAME` writes one with its test.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from espalier.config import PartConfig, decode, encode, names, resolve
from espalier.data.pieces import Mark, Piece, Side
from espalier.data.sources.records import document
from espalier.data.tokenizer import Tokenizer
from espalier.data.tokenizer.base import scrub
from espalier.durable import digest
from espalier.errors import UserError
from espalier.tree import parse_value


class Document(NamedTuple):
    """One text of a corpus, and the split it belongs to (None: the hash of the text decides)."""

    text: str
    side: Side | None = None


class PluginConfig(PartConfig, slot="espalier.data.sources.plugin"):
    """A program that gives documents; its fields are the settings of the command line.

    `documents` is called anew whenever the corpus is read (to train a tokenizer, to encode, to go
    on after a kill), so it must give the same documents in the same order each time: draw from a
    generator of your own with a seed among the fields. Equal texts always share a split.
    """

    files: ClassVar[str] = ""  # what its files are; empty: it takes none
    tokenizer: ClassVar[str] = "char"  # where --tokenizer is left out and it has none of its own

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        """All documents; `val_fraction` is for those who choose the sides themselves."""
        raise NotImplementedError

    def vocabulary(self, files: Sequence[Path]) -> Tokenizer | None:
        """A tokenizer that fits its documents; None: one by name."""
        return None

    def facts(self, files: Sequence[Path], val_fraction: float) -> dict[str, Any]:
        """What meta.json keeps under `source` beside the settings: what reading it back needs."""
        return {}


@dataclass(frozen=True)
class Documents:
    """The documents of a plug-in; the cursor counts them."""

    plugin: PluginConfig
    files: tuple[Path, ...]
    val_fraction: float
    one: bool = False
    size: float | None = None
    unit: str = "documents"

    @property
    def text_bytes(self) -> int:
        return 4 * sum(file.stat().st_size for file in self.files)

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": "plugin", "name": self.plugin.name}
        found["settings"] = encode(self.plugin)
        if self.plugin.chosen:
            found["code"] = digest(Path(self.plugin.chosen))
        if self.files:
            hashes = "\n".join(digest(file) for file in self.files)
            found["sha256"] = hashlib.sha256(hashes.encode("ascii")).hexdigest()
            found["files"] = len(self.files)
        return found | self.plugin.facts(self.files, self.val_fraction)

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        done = int(cursor["documents"]) if cursor else 0
        found = self.plugin.documents(self.files, self.val_fraction)
        for text, side in islice(found, done, None):
            done += 1
            if not text.strip():
                tally["blank"] += 1
                continue
            mark = Mark({"documents": done}, done, dict(tally))
            for piece in document(scrub(text), mark):
                yield piece._replace(side=side)


def is_plugin(name: str) -> bool:
    """Whether a source's name is that of a plug-in, or a file of code that defines one."""
    return name in names(PluginConfig) or defines(name, PluginConfig)


def configured(name: str, words: Sequence[str]) -> tuple[PluginConfig, tuple[Path, ...]]:
    """The plug-in with its settings, and its files; UserError for words it cannot use."""
    kind = resolve(PluginConfig, name)
    given: dict[str, Any] = {}
    files: list[Path] = []
    for word in words:
        key, is_setting, value = word.partition("=")
        if is_setting and key.isidentifier():
            given[key] = parse_value(value)
        else:
            files.append(Path(word))
    if files and not kind.files:
        raise UserError(f"{name} reads no file, got {files[0]}; settings are written key=value")
    if kind.files and not files:
        raise UserError(f"{name} reads {kind.files}: espalier prepare {name} FILE")
    for file in files:
        if not file.is_file():
            raise UserError(f"no file {file}")
    return decode(kind, given, name), tuple(files)


def read_text(file: Path) -> str:
    """A file's text without its byte order mark; UserError when it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}. "
            "Convert it (iconv -t UTF-8)."
        ) from None


def defines(name: str, base: type[PartConfig]) -> bool:
    """Whether it is a file of code with a class of this kind.

    Looks at the syntax alone: other Python files are texts like any other.
    """
    try:
        tree = ast.parse(Path(name).read_text(encoding="utf-8") if name.endswith(".py") else "")
    except (OSError, SyntaxError, ValueError):
        return False
    bases = [one for node in tree.body if isinstance(node, ast.ClassDef) for one in node.bases]
    return any(ast.unparse(one).rpartition(".")[2] == base.__name__ for one in bases)
