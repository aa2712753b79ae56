"""Time series from CSV: each number is one token, the bin it falls in."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import StringIO
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from espalier.data.sources.plugins import Document, PluginConfig, read_text
from espalier.data.tokenizer.custom import CustomTokenizer
from espalier.errors import UserError

Floats = NDArray[np.float64]


class TimeseriesConfig(PluginConfig):
    """Column number i of a row becomes one token: its letter and its bin, as in `a017b201`.

    The edges of the bins are the training part's alone: `bins` of equal width between its least and
    its greatest value, or of equal content. A value of the training part and its bin's middle (see
    `numbers`) differ by half the bin's width at most; later values beyond the edges count as the
    outermost bin. The last rows of each file are for validation. A row is `columns` tokens.
    """

    files = "CSV files with a line of column names"
    columns: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=26)
    """The columns, in this order; null: every one whose first value is a number."""
    bins: int = Field(default=256, ge=2, le=10_000)
    spread: Literal["width", "content"] = "width"
    """What the bins share: their width, or how many training values each holds."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        columns = self._columns(files[0])
        edges = self._edges(files, val_fraction)
        for file in files:
            rows = self._rows(file, columns)
            cut = _cut(len(rows), val_fraction)
            yield Document(self._written(rows[:cut], edges), "train")
            yield Document(self._written(rows[cut:], edges), "val")

    def vocabulary(self, files: Sequence[Path]) -> CustomTokenizer:
        texts = [text for column in self._texts(len(self._columns(files[0]))) for text in column]
        return CustomTokenizer({text: i for i, text in enumerate(texts)}, eot=len(texts))

    def facts(self, files: Sequence[Path], val_fraction: float) -> dict[str, Any]:
        return {
            "columns": list(self._columns(files[0])),
            "edges": self._edges(files, val_fraction).tolist(),
        }

    def _texts(self, columns: int) -> list[list[str]]:
        """The token of each column's each bin; the last column's end the line."""
        digits = len(str(self.bins - 1))
        ends = [""] * (columns - 1) + ["\n"]
        return [
            [f"{letter}{i:0{digits}d}{end}" for i in range(self.bins)]
            for letter, end in zip(ascii_lowercase[:columns], ends, strict=True)
        ]

    def _written(self, rows: Floats, edges: Floats) -> str:
        texts = self._texts(rows.shape[1])
        columns = [
            np.array(names)[np.searchsorted(edge[1:-1], values, side="right")].tolist()
            for names, edge, values in zip(texts, edges, rows.T, strict=True)
        ]
        return "".join(text for row in zip(*columns, strict=True) for text in row)

    def _edges(self, files: Sequence[Path], val_fraction: float) -> Floats:
        """The ends of the bins, ascending, [columns, bins + 1], of the training parts."""
        tables = [self._rows(file, self._columns(files[0])) for file in files]
        seen = np.concatenate([rows[: _cut(len(rows), val_fraction)] for rows in tables])
        if self.spread == "content":
            edges: Floats = np.quantile(seen, np.linspace(0, 1, self.bins + 1), axis=0)
        else:
            edges = np.linspace(seen.min(axis=0), seen.max(axis=0), self.bins + 1)
        return edges.T

    def _columns(self, file: Path) -> tuple[str, ...]:
        names, first = _head(file, self.delimiter)
        if self.columns is None:
            found = tuple(n for n, cell in zip(names, first, strict=False) if _number(cell))
        else:
            found = self.columns
        missing = [name for name in found if name not in names]
        if missing or not found or len(found) > len(ascii_lowercase):
            what = f"no column '{missing[0]}'" if missing else f"{len(found)} columns of numbers"
            raise UserError(
                f"{file}: {what}; there are {', '.join(names)}. Choose: columns=[NAME, …]"
            )
        return found

    def _rows(self, file: Path, columns: tuple[str, ...]) -> Floats:
        return _table(file, self.delimiter, columns, file.stat().st_mtime_ns)


def numbers(text: str, source: Mapping[str, Any]) -> Floats:
    """The middles of the bins that a text names, [rows, columns]; `source` is meta.json's.

    What is no whole row is left out.
    """
    edges = np.array(source["edges"])
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    digits = len(str(middles.shape[1] - 1))
    row = "".join(rf"{letter}(\d{{{digits}}})" for letter in ascii_lowercase[: len(middles)])
    lines = (re.fullmatch(row, line) for line in text.split("\n")[:-1])
    places = [[int(place) for place in line.groups()] for line in lines if line]
    rows = np.array(places, int).reshape(-1, len(middles))
    found: Floats = middles[np.arange(len(middles)), rows]
    return found


def _cut(rows: int, val_fraction: float) -> int:
    """Rows for training: at least one, and one for validation."""
    return min(max(1, int(rows * (1 - val_fraction))), rows - 1)


def _head(file: Path, delimiter: str) -> tuple[list[str], list[str]]:
    lines = csv.reader(StringIO(read_text(file)), delimiter=delimiter)
    names, first = next(lines, []), next(lines, [])
    return [name.strip() for name in names], first


@lru_cache(maxsize=4)
def _table(file: Path, delimiter: str, columns: tuple[str, ...], stamp: int) -> Floats:
    """The columns' numbers, [rows, columns]; UserError names the cell that is none."""
    lines = csv.reader(StringIO(read_text(file)), delimiter=delimiter)
    names = [name.strip() for name in next(lines, [])]
    if missing := [name for name in columns if name not in names]:
        raise UserError(f"{file}: no column '{missing[0]}'; there are {', '.join(names)}")
    places = [names.index(name) for name in columns]
    rows: list[list[float]] = []
    for line in filter(None, lines):
        cells = [line[place] if place < len(line) else "" for place in places]
        for name, cell in zip(columns, cells, strict=True):
            if not _number(cell):
                raise UserError(f"{file}, row {len(rows) + 1}, {name}: {cell!r} is no number")
        rows.append([float(cell) for cell in cells])
    if len(rows) < 2:
        raise UserError(f"{file} has {len(rows)} rows of numbers, at least 2 are needed")
    return np.array(rows)


def _number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
