"""A sweep file as documents: YAML, several of them in one file, lists of them, or JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espalier.errors import ConfigError
from espalier.tree import Path_, read_documents


class Document(NamedTuple):
    """One mapping of a sweep file."""

    tree: dict[str, Any]
    lines: Mapping[Path_, int]
    file: Path

    def at(self, *path: str) -> str:
        """`file:line` of a path, or of the nearest thing above it."""
        near = [path[:n] for n in range(len(path), -1, -1) if path[:n] in self.lines]
        return f"{self.file.name}:{self.lines[near[0]]}" if near else self.file.name


def documents(file: Path) -> list[Document]:
    """Every mapping in the file, in order; ConfigError where there is none, or something else."""
    if not file.is_file():
        raise ConfigError(f"no sweep file {file}")
    found = _json(file) if file.suffix == ".json" else read_documents(file)
    flat = [document for tree, lines in found for document in _mappings(tree, lines, file)]
    if not flat:
        raise ConfigError(f"{file}: no settings in it")
    return flat


def _mappings(tree: Any, lines: Mapping[Path_, int], file: Path) -> list[Document]:
    if isinstance(tree, dict):
        return [Document(tree, lines, file)]
    if not isinstance(tree, list) or not all(isinstance(item, dict) for item in tree):
        raise ConfigError(f"{file}: a sweep file holds mappings, or lists of them")
    return [
        Document(item, {path[1:]: n for path, n in lines.items() if path[:1] == (str(i),)}, file)
        for i, item in enumerate(tree)
    ]


def _json(file: Path) -> list[tuple[Any, dict[Path_, int]]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"{file}: {twice} stands twice")
        return dict(pairs)

    try:
        return [(json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=once), {})]
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None
