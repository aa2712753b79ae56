"""Charts that a look at a model's insides describes as data: matrices, bars, curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from espalier.report.analysis import COLORS, Drawn, bars, drawn, short
from espalier.report.figures import GREEN, INK, RUST, drawing

Chart = Mapping[str, Any]
CELL = 0.24  # inches
WIDEST = 12.0
LABELS = 40  # names along one side; of more, every n-th is written


def figures(charts: Sequence[Chart]) -> Iterator[tuple[str, Drawn]]:
    """Each chart's name and its drawing."""
    kinds = {"heat": _heat, "bars": _bars, "lines": _lines}
    for chart in charts:
        yield chart["name"], kinds[chart["kind"]](chart)


def _bars(chart: Chart) -> Drawn:
    return bars(chart["title"], chart["values"])


def _heat(chart: Chart) -> Drawn:
    """A matrix: white is nothing, green above it and rust below; words in the cells, if any."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = [short(name) for name in chart["rows"]], chart["columns"]
    values = [[math.nan if v is None else v for v in row] for row in chart["values"]]
    known = [abs(v) for row in values for v in row if math.isfinite(v)]
    most = max(known, default=0.0) or 1.0
    cell = CELL if chart.get("words") is None else 2.2 * CELL
    size = (
        min(WIDEST, 2.2 + cell * len(columns)),
        min(WIDEST, 1.2 + CELL * len(rows)),
    )
    with drawing(chart["title"], size) as (figure, axes):
        shades = LinearSegmentedColormap.from_list("shades", [RUST, "white", GREEN])
        image = axes.imshow(values, cmap=shades, vmin=-most, vmax=most, aspect="auto")
        axes.grid(visible=False)
        for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
            step = max(1, -(-len(names) // LABELS))
            axis.set_ticks(range(0, len(names), step), list(names)[::step], fontsize=6)
        if max(map(len, columns), default=0) > 2:
            axes.tick_params(axis="x", rotation=90)
        for i, line in enumerate(chart.get("words") or ()):
            for j, word in enumerate(line):
                place = {"ha": "center", "va": "center", "fontsize": 6, "color": INK}
                axes.text(j, i, word.replace("$", r"\$"), **place)
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=6, length=0)
        bar.outline.set_visible(False)
        return drawn(figure, chart["title"])


def _lines(chart: Chart) -> Drawn:
    """Curves over places, in their order."""
    places = list(dict.fromkeys(place for curve in chart["values"].values() for place in curve))
    with drawing(chart["title"], (8.2, 3.6)) as (figure, axes):
        for (name, curve), color in zip(chart["values"].items(), COLORS, strict=False):
            where = [i for i, place in enumerate(places) if curve.get(place) is not None]
            heights = [curve[places[i]] for i in where]
            axes.plot(where, heights, color=color, marker="o", markersize=3.5, label=name)
        axes.set_xticks(range(len(places)), [short(p) for p in places], fontsize=7, rotation=90)
        axes.legend(frameon=False, fontsize=7)
        return drawn(figure, chart["title"])
