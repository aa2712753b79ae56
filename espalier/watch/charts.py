"""Plots of what is in sight, in colours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from espalier.watch.plot import NOTHING, Series, draw
from espalier.watch.rows import CURVE, Row

COLOURS = ("cyan", "green", "yellow", "magenta", "red", "blue", "white")
MOST = len(COLOURS)  # curves at a time


def curves(rows: Sequence[Row], size: tuple[int, int]) -> Text:
    """One trial's training and validation loss; of several, the validation losses."""
    if len(rows) == 1:
        row = rows[0]
        series = [Series("training", row.train), Series("validation", row.evals)]
        return _painted(series, ("step", f"loss of {row.key}"), size)
    several = all(len(row.evals) > 1 for row in rows)
    kind = "validation loss" if several else "training loss"
    series = [Series(row.key, row.evals if several else row.train) for row in rows[:MOST]]
    return _painted(series, ("step", kind), size)


def scatter(rows: Sequence[Row], here: Row, column: str, size: tuple[int, int]) -> Text:
    """The lowest loss of each trial over `column`; the trial of the cursor stands out."""
    if column in (CURVE, "best"):
        return Text("stand on another column: its values go from left to right, the loss up")
    others = [row for row in rows if row.key != here.key]
    series = [Series("trials", _cloud(others, column), joined=False)]
    series.append(Series(here.key, _cloud([here], column), joined=False))
    return _painted(series, (column, "best"), size)


def _cloud(rows: Sequence[Row], column: str) -> list[tuple[object, float]]:
    return [
        (row[column], float(loss))
        for row in rows
        if isinstance(loss := row["best"], (int, float)) and row[column] is not None
    ]


def _painted(series: Sequence[Series], names: tuple[str, str], size: tuple[int, int]) -> Text:
    if not any(one.points for one in series):
        return Text("nothing to draw yet")
    lines = draw(series, names, *size)
    text = Text(no_wrap=True)
    for number, one in enumerate(series):
        text.append(f"{'  ' if number else ''}━ {one.name}", COLOURS[number])
    text.append("   ")
    for number, line in enumerate(lines):
        for owner, cells in groupby(line, key=lambda cell: cell.series):
            style = "dim" if owner == NOTHING else COLOURS[owner]
            text.append("".join(cell.text for cell in cells), style)
        text.append("\n" if number < len(lines) - 1 else "")
    return text
