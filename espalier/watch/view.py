"""What is shown of a study, and in which order; every change is a new view, so that each undoes."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from espalier.errors import UserError, nearest
from espalier.study.axis import is_number
from espalier.tree import parse_value
from espalier.units import duration
from espalier.watch.rows import ASIDE, CURVE, Row, Value

Way = Literal["up", "down"]
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_RULE = re.compile(r"\s*(?P<column>[^<>=!]+?)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*")


@dataclass(frozen=True)
class Rule:
    """Rows stay where `column` `sign` `value` holds; numbers compare as numbers."""

    column: str
    sign: str
    value: Value

    def holds(self, row: Row) -> bool:
        found = row[self.column]
        if self.sign in ("=", "!="):
            return _same(found, self.value) == (self.sign == "=")
        both = is_number(found) and is_number(self.value)
        return both and _COMPARE[self.sign](found, self.value)

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{shown(self.column, self.value)}"


def rule(text: str, columns: Sequence[str]) -> Rule:
    """`state=failed`, `best<2.5`, `norm!=rms`; UserError for anything else."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise UserError(f"'{text}' is no rule: write COLUMN=VALUE, with = != < > <= or >=")
    return Rule(column(found["column"], columns), found["sign"], _parsed(found["value"]))


def column(name: str, columns: Sequence[str]) -> str:
    """A column by its name. UserError offers the nearest."""
    if name not in columns:
        known = ", ".join(columns)
        raise UserError(f"no column '{name}'.{nearest(name, columns)} Known: {known}")
    return name


@dataclass(frozen=True)
class View:
    """Columns from left to right (None: all but the rarer), the order of rows, and what stays."""

    columns: tuple[str, ...] | None = None
    order: tuple[tuple[str, Way], ...] = ()
    rules: tuple[Rule, ...] = ()

    def shows(self, columns: Iterable[str]) -> list[str]:
        """Of all columns there are, those in sight."""
        there = list(columns)
        if self.columns is None:
            return [name for name in there if name not in ASIDE]
        return [name for name in self.columns if name in there]

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """In order: the first key decides, the next where it is equal; nothing known comes last."""
        found = [row for row in rows if all(rule.holds(row) for rule in self.rules)]
        for name, way in reversed(self.order):
            known = [row for row in found if row[name] is not None]
            known.sort(key=lambda row: _rank(row[name]), reverse=way == "down")
            found = known + [row for row in found if row[name] is None]
        return found

    def sorted(self, name: str) -> Self:
        """`name` as one more key; once more: the other way round; a third time: no longer a key."""
        ways = dict(self.order)
        if ways.get(name) == "down":
            del ways[name]
        else:
            ways[name] = "down" if name in ways else "up"
        return replace(self, order=tuple(ways.items()))

    def ruled(self, rule: Rule) -> Self:
        return replace(self, rules=(*self.rules, rule))

    def without(self, name: str, columns: Iterable[str]) -> Self:
        """One column less; the last one stays."""
        left = tuple(one for one in self.shows(columns) if one != name)
        return replace(self, columns=left) if left else self

    def moved(self, name: str, places: int, columns: Iterable[str]) -> Self:
        """A column further to the right, or (below 0) to the left."""
        shown = self.shows(columns)
        place = shown.index(name)
        shown.insert(max(0, place + places), shown.pop(place))
        return replace(self, columns=tuple(shown))


def to_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """The table as it is shown, numbers in full; curves are left out."""
    names = [name for name in columns if name != CURVE]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if row[name] is None else row[name] for name in names] for row in rows)
    return stream.getvalue()


def shown(name: str, value: Value) -> str:
    """A cell as people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value.lower() if name == "state" else " ".join(value.split())
    if name == "age":
        return _ago(value)
    if name == "seconds":
        return duration(value)
    if name in ("best", "loss", "train"):
        return f"{value:.4f}"
    if name == "done":
        return f"{100 * value:.0f} %"
    if name in ("parameters", "step", "tokens/s") or isinstance(value, int):
        return f"{value:,.0f}"
    return f"{value:.6g}"


def lines(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The table as text, in columns as wide as they need to be."""
    grid = [list(columns)]
    grid += [[shown(name, row[name]) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in grid) for i in range(len(columns))]
    padded = (
        [text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in grid
    )
    return ["  ".join(line).rstrip() for line in padded]


def _ago(seconds: float) -> str:
    """In one unit, so that it changes seldom: 42 s, 3 min, 5 h, 2 d."""
    steps = ((86400, "d"), (3600, "h"), (60, "min"))
    return next(
        (f"{seconds // step:.0f} {name}" for step, name in steps if seconds >= step),
        f"{max(0, seconds):.0f} s",
    )


def _rank(value: Value) -> tuple[int, float, str]:
    """Numbers before words."""
    if isinstance(value, (int, float)):
        return 0, value, ""
    return 1, 0.0, str(value)


def _same(found: Value, wanted: Value) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return found.lower() == wanted.lower()
    return found == wanted


def _parsed(text: str) -> Value:
    found = parse_value(text)
    return found if isinstance(found, (str, int, float)) or found is None else text
