"""Points and lines in a terminal: two by four dots to a character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from espalier.study.axis import Axis, axis

BLANK = 0x2800  # the braille character without a dot
# The bit of each dot, by its row and column within the character.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
TALLEST = 9  # characters of the widest label at the left
NOTHING = -1


@dataclass(frozen=True)
class Series:
    """One curve, or one cloud where `joined` is false; x may be names."""

    name: str
    points: Sequence[tuple[Any, float]]
    joined: bool = True


class Cell(NamedTuple):
    """A character, and the number of the series whose colour it has."""

    text: str
    series: int = NOTHING


class Canvas:
    """Dots on `width` by `height` characters; (0, 0) is at the lower left, (1, 1) opposite."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._owner = [[NOTHING] * width for _ in range(height)]

    def dot(self, x: float, y: float, series: int) -> None:
        """Two by two, so that one alone is seen."""
        column, row = self._grid(x, y)
        for i in (column, column ^ 1):
            for j in (row, row ^ 1):
                self._set(i, j, series)

    def line(self, start: tuple[float, float], end: tuple[float, float], series: int) -> None:
        """Every dot on the way, at most one apart."""
        (a, b), (c, d) = self._grid(*start), self._grid(*end)
        steps = max(abs(c - a), abs(d - b), 1)
        for i in range(steps + 1):
            self._set(a + round((c - a) * i / steps), b + round((d - b) * i / steps), series)

    def rows(self) -> list[list[Cell]]:
        """From the top."""
        return [
            [Cell(chr(BLANK + bit), owner) for bit, owner in zip(bits, owners, strict=True)]
            for bits, owners in zip(self._bits, self._owner, strict=True)
        ]

    def _grid(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of a dot, rows from the top."""
        across, down = 2 * self.width - 1, 4 * self.height - 1
        return round(min(1.0, max(0.0, x)) * across), down - round(min(1.0, max(0.0, y)) * down)

    def _set(self, column: int, row: int, series: int) -> None:
        self._bits[row // 4][column // 2] |= DOTS[row % 4][column % 2]
        self._owner[row // 4][column // 2] = series


def draw(
    series: Sequence[Series], names: tuple[str, str], width: int, height: int
) -> list[list[Cell]]:
    """Lines of cells: a title, the plot with its labels, the labels of x. No series, no plot.

    `names` are those of x and y; both axes are over all series together. Curves have even steps.
    """
    x = axis(names[0], (point[0] for one in series for point in one.points))
    x = replace(x, log=False) if all(one.joined for one in series) else x
    y = axis(names[1], (point[1] for one in series for point in one.points))
    canvas = Canvas(max(2, width - TALLEST - 1), max(2, height - 3))
    for number, one in enumerate(series):
        _trace(canvas, [_placed(x, y, *point) for point in one.points], one.joined, number)
    left = _left(y, canvas.height)
    lines = [_cells(f"{y.name}{_scale(y)} over {x.name}{_scale(x)}")]
    lines += [_cells(label) + row for label, row in zip(left, canvas.rows(), strict=True)]
    lines.append(_cells(" " * TALLEST + "└" + "─" * canvas.width))
    lines.append(_cells(" " * (TALLEST + 1) + _below(x, canvas.width)))
    return lines


def _trace(
    canvas: Canvas, places: Sequence[tuple[float, float] | None], joined: bool, series: int
) -> None:
    for before, place in zip([None, *places], places, strict=False):
        if place is None:
            continue
        if joined and before is not None:
            canvas.line(before, place, series)
        else:
            canvas.dot(*place, series)


def _placed(x: Axis, y: Axis, across: Any, up: float) -> tuple[float, float] | None:
    places = x.place(across), y.place(up)
    return None if places[0] is None or places[1] is None else (places[0], places[1])


def _left(y: Axis, height: int) -> list[str]:
    """The labels of y, each on the line of its place."""
    labels = {
        height - 1 - round(place * (height - 1)): text for place, text in y.ticks(height // 2)
    }
    return [f"{labels.get(row, '')[: TALLEST - 1]:>{TALLEST - 1}} │" for row in range(height)]


def _below(x: Axis, width: int) -> str:
    """The labels of x, each about under its place, where there is room."""
    line = ""
    for place, text in x.ticks(max(2, width // 14)):
        start = min(round(place * (width - 1)) - len(text) // 2, width - len(text))
        if start >= len(line) + bool(line):
            line += " " * (start - len(line)) + text
        elif not line:
            line = text[:width]
    return line


def _scale(one: Axis) -> str:
    return " (log)" if one.log else ""


def _cells(text: str) -> list[Cell]:
    return [Cell(letter) for letter in text]
