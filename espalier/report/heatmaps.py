"""What might have come at each token of a sample: candidates, their chances, and what was drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from espalier.report.analysis import Drawn, drawn
from espalier.report.figures import GREEN, GREY, RUST, drawing

WIDE = 24  # tokens side by side
MOST = 480  # tokens in one figure
LONGEST = 7  # characters of a token that are shown


@dataclass(frozen=True)
class Place:
    """One drawn token and the likeliest others."""

    text: str
    logit: float
    low: float
    high: float
    """of all logits there"""
    candidates: Sequence[tuple[str, float]]
    """text and probability, likeliest first"""
    drawn: int | None
    """its place among the candidates, where it stands there"""


def heatmap(title: str, places: Sequence[Place]) -> Drawn:
    """Rows of WIDE tokens: a column for each, a cell for each candidate, the drawn one framed.

    A longer sample is shown up to MOST tokens.
    """
    shown = places[:MOST]
    bands = [shown[i : i + WIDE] for i in range(0, len(shown), WIDE)]
    deep = max(len(place.candidates) for place in shown)
    with drawing(title, (11.5, 0.5 + len(bands) * (0.35 + 0.19 * deep))) as (figure, axes):
        axes.remove()
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        grid = figure.subplots(len(bands), 1, squeeze=False)[:, 0]
        for panel, band in zip(grid, bands, strict=True):
            _band(panel, band, deep)
        return drawn(figure, title)


def _band(axes: Any, band: Sequence[Place], deep: int) -> None:
    missing = float("nan")
    cells = [
        [place.candidates[row][1] if row < len(place.candidates) else missing for place in band]
        for row in range(deep)
    ]
    axes.imshow(cells, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for column, place in enumerate(band):
        for row, (text, chance) in enumerate(place.candidates):
            ink = "white" if chance > 0.6 else "black"
            axes.text(column, row, visible(text), ha="center", va="center", fontsize=5.5, color=ink)
        if place.drawn is not None:
            axes.add_patch(_frame(column, place.drawn))
    axes.set_xticks(range(len(band)), [visible(place.text) for place in band], fontsize=6)
    axes.set_xlim(-0.5, WIDE - 0.5)
    axes.set_yticks([])
    axes.grid(visible=False)


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=RUST)


def minmax(title: str, places: Sequence[Place]) -> Drawn:
    """The drawn token's logit between the smallest and the largest of its step."""
    steps = range(1, len(places) + 1)
    with drawing(title, (8.2, 3.2)) as (figure, axes):
        low, high = [p.low for p in places], [p.high for p in places]
        axes.fill_between(steps, low, high, color=GREY, alpha=0.25, linewidth=0, label="all tokens")
        axes.plot(steps, [p.logit for p in places], color=GREEN, linewidth=1.1, label="drawn token")
        axes.set_xlabel("token")
        axes.legend(frameon=False, loc="lower right")
        return drawn(figure, title)


def each(places: Sequence[Place]) -> Iterator[tuple[str, Drawn]]:
    """A bar chart for every token: its number from 0001, and the figure."""
    for number, place in enumerate(places, 1):
        title = f"Token {number}"
        with drawing(title, (4.2, 0.8 + 0.24 * len(place.candidates))) as (figure, axes):
            rows = range(len(place.candidates))
            color = [RUST if row == place.drawn else GREEN for row in rows]
            axes.barh(rows, [chance for _, chance in place.candidates], color=color)
            axes.set_yticks(rows, [visible(text) for text, _ in place.candidates])
            axes.invert_yaxis()
            axes.set_xlabel(f"probability; drawn: {visible(place.text)}")
            yield f"{number:04d}", drawn(figure, title)


def visible(text: str) -> str:
    """A token as a label: white space as signs, and cut."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣").replace("$", r"\$")
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
