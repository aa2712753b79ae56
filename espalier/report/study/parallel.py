"""Every configuration as a line from setting to setting, to its loss at the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from espalier.report.figures import GREEN, GREY, INK, drawing, svg
from espalier.report.study.importance import ranks
from espalier.report.study.reading import Found
from espalier.study.axis import Axis, axis, short
from espalier.study.table import Point

PATHS = 9  # settings beside each other
LINES = 300
NAMES = 12  # different values that are no numbers
SPREAD = 0.05  # of an axis, by which lines through one place stand apart
LONGEST = 14  # characters of a label


def chart(found: Found, paths: Sequence[str]) -> str:
    """An <svg> of the first of `paths` that can be drawn; empty for fewer than two lines."""
    points = found.judged[:LINES]
    axes = [axis(path, [found.values[p.configuration][path] for p in points]) for path in paths]
    axes = [one for one in axes if len(one.names) <= NAMES][:PATHS]
    if len(points) < 2 or not axes:
        return ""
    title = _title(len(points), len(found.points), len(axes), len(found.paths))
    with drawing(title, (8.2, 3.9)) as (figure, plot):
        _lines(plot, found, points, axes)
        names = short(found.paths)
        _frame(plot, [*axes, _loss(points)], [*(names[one.name] for one in axes), "loss"])
        return svg(figure, title)


def _title(lines: int, every: int, axes: int, paths: int) -> str:
    title = "Settings and loss: the lower the loss, the greener"
    left = [f"best {lines} of {every}"] if lines < every else []
    left += [f"{axes} of {paths} settings"] if axes < paths else []
    return f"{title} ({', '.join(left)})" if left else title


def _lines(plot: Any, found: Found, points: Sequence[Point], axes: Sequence[Axis]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("loss", [GREEN, "#c3cdb9", "#dccfbf"])
    loss = _loss(points)
    ordered = ranks([point.loss.mean for point in points if point.loss])
    for index in range(len(points) - 1, -1, -1):  # the best on top
        point, values = points[index], found.values[points[index].configuration]
        part = (ordered[index] - 1) / max(1, len(points) - 1)
        heights = [_apart(one, values[one.name], part) for one in axes]
        heights.append(loss.place(point.loss.mean) if point.loss else None)
        if None in heights:
            continue
        width = 2.2 if index == 0 else 1.0
        plot.plot(range(len(heights)), heights, color=shades(part), linewidth=width, alpha=0.85)


def _apart(one: Axis, value: Any, part: float) -> float | None:
    """The place of a value; where many share it, the better a little lower."""
    place = one.place(value)
    return place if place is None else place + (part - 0.5) * SPREAD


def _loss(points: Sequence[Point]) -> Axis:
    found = axis("loss", [point.loss.mean for point in points if point.loss])
    return replace(found, marks=())


def _frame(plot: Any, axes: Sequence[Axis], names: Sequence[str]) -> None:
    """The axes with their labels, and their names below."""
    plot.grid(visible=False)
    for place, one in enumerate(axes):
        plot.axvline(place, color=GREY, linewidth=0.8, zorder=0)
        for height, text in one.ticks(6):
            shown = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
            plot.annotate(
                shown, (place, height), (3, 0), textcoords="offset points", va="center",
                fontsize=7.5, color=INK,
                bbox={"facecolor": "white", "alpha": 0.6, "pad": 0.6, "linewidth": 0},
            )  # fmt: skip
    plot.set_xticks(range(len(axes)), names)
    plot.set_yticks([])
    plot.set_xlim(-0.05, len(axes) - 1 + 0.35)
    plot.spines["bottom"].set_visible(False)
