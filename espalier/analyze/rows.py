"""Tables as lists of rows: filtered, sorted, as CSV. Imports no torch."""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from espalier.errors import UserError, nearest

Row = Mapping[str, Any]

_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "~": lambda value, pattern: fnmatchcase(str(value), str(pattern)),
}


def keep(rows: Sequence[Row], expression: str, columns: Sequence[str]) -> list[Row]:
    """Rows for which `column<op>value` holds; op: = != < <= > >=, or ~ for a pattern (run~*wide*).

    Compared as numbers where both are, else as text. A row without a value is kept by != alone.
    UserError for what is no such expression.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*", expression)
    if not found:
        raise UserError(
            f"--filter takes COLUMN<op>VALUE, such as best_loss<1.5, not '{expression}'"
        )
    column, sign, wanted = found[1], found[2], found[3]
    known(column, columns)
    return [row for row in rows if _holds(row[column], sign, wanted)]


def _holds(value: Any, sign: str, wanted: str) -> bool:
    if value is None:
        return sign == "!="
    try:
        number = None if sign == "~" or isinstance(value, str) else float(wanted)
    except ValueError:
        number = None
    return _SIGNS[sign](str(value), wanted) if number is None else _SIGNS[sign](value, number)


def known(column: str, columns: Sequence[str]) -> str:
    """The column; UserError where there is none of this name."""
    if column not in columns:
        hint = nearest(column, columns) or f" Known: {', '.join(columns)}"
        raise UserError(f"no column '{column}'.{hint}")
    return column


def ordered(rows: Sequence[Row], by: Sequence[str], *, reverse: bool) -> list[Row]:
    """Sorted by the first of `by`, then the next; rows without a value stand last either way."""
    found = list(rows)
    for column in reversed(by):
        there = [row for row in found if row[column] is not None]
        numbers = all(isinstance(row[column], (int, float)) for row in there)
        key = operator.itemgetter(column) if numbers else lambda row, c=column: str(row[c])
        lacking = [row for row in found if row[column] is None]
        found = sorted(there, key=key, reverse=reverse) + lacking
    return found


def text(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Lines of a table for people: a heading, then rows; numbers to the right."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    lines = [list(columns), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    right = [any(isinstance(row.get(column), (int, float)) for row in rows) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """With a heading; a value that is not there is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if row.get(c) is None else row[c] for c in columns] for row in rows)
    return stream.getvalue()
