"""A trial at one moment, as cells under the names of columns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from espalier.study.axis import short, words

Value = str | int | float | bool | None
Points = tuple[tuple[float, float], ...]

CURVE = "curve"
# What stands left and right of the settings.
BEFORE = ("state", "age", CURVE, "best", "loss", "train", "done")
AFTER = ("parameters", "seconds", "step", "tokens/s", "seed", "tries", "worker", "key", "error")
# At first out of sight.
ASIDE = ("step", "tokens/s", "tries", "worker", "reason")
# What changes while a trial runs: no value of these makes a group of trials.
MOVING = ("age", CURVE, "best", "loss", "train", "done", "seconds", "step", "tokens/s")
# Of a record: what is under another name, and what is of no use in a table.
TOLD = (
    *("state", "key", "configuration", "settings", "time", "code", "run", "tokens", "best_step"),
    *("val_loss", "best_val_loss", "train_loss", "skipped_updates", "stale"),
)


@dataclass(frozen=True)
class Row:
    """`cells`: by column; `age` in seconds, `done` from 0 to 1."""

    key: str
    cells: Mapping[str, Value]
    train: Points = ()
    """step and training loss, thinned"""
    evals: Points = ()
    """step and validation loss"""

    def __getitem__(self, column: str) -> Value:
        return self.cells.get(column)


def headings(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Path of a setting -> its column: short, unless another column has that name."""
    names = short(path for record in records for path in record["settings"])
    taken = {*BEFORE, *AFTER}
    return {path: path if name in taken else name for path, name in names.items()}


def others(records: Iterable[Mapping[str, Any]], known: Iterable[str]) -> list[str]:
    """What else records tell that a cell can hold, such as the round of a search."""
    taken = {*BEFORE, *AFTER, *TOLD, *known}
    told = {
        name: None
        for record in records
        for name, value in record.items()
        if name not in taken and isinstance(value, (str, int, float))
    }
    return list(told)


def cells(
    record: Mapping[str, Any], names: Mapping[str, str], more: Iterable[str]
) -> dict[str, Value]:
    """What the record of a trial says by itself."""
    found: dict[str, Value] = {names[path]: plain(v) for path, v in record["settings"].items()}
    told = ("parameters", "seconds", "step", "seed", "worker", "error", *more)
    found |= {name: record[name] for name in told if record.get(name) is not None}
    return found | {"key": record["key"], "age": time.time() - record.get("time", time.time())}


def plain(value: Any) -> Value:
    """A setting as a cell: numbers stay numbers, what has parts is written out."""
    return value if isinstance(value, (int, float)) else words(value)
