"""Curves as inline SVG."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from espalier.errors import need
from espalier.units import count

INK, GRID = "#43403a", "#e7e3da"
GREEN, RUST, GREY = "#3f7d58", "#b5542b", "#a9a498"


@dataclass(frozen=True)
class Line:
    """One curve; `dots` marks its points."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str
    dots: bool = False


def over_steps(axes: Any) -> None:
    """A horizontal axis of steps, which are whole."""
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def curves(title: str, lines: Sequence[Line], size: tuple[float, float], *, zero: bool) -> str:
    """An <svg> of curves over steps. `zero`: the value axis begins at nothing."""
    with drawing(title, size) as (figure, axes):
        for line in lines:
            _draw(axes, line)
        over_steps(axes)
        axes.margins(x=0.01)
        axes.locator_params(axis="x", nbins=6 if size[0] > 6 else 4)
        axes.yaxis.set_major_formatter(lambda value, _: count(value))
        if zero:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(frameon=False, loc="upper right")
        return svg(figure, title)


@contextmanager
def drawing(title: str, size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """An empty figure of `size` inches and its axes, in the report's style."""
    need("matplotlib", "plots")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # stable ids, and none shared by two figures of a page
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.edgecolor": GREY,
    }
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(length=0)
        yield figure, axes


def _draw(axes: Any, line: Line) -> None:
    marker = "o" if line.dots else None
    width = 1.6 if line.dots else 1.1
    axes.plot(
        line.steps, line.values, color=line.color, linewidth=width, marker=marker, markersize=3.5,
        label=line.name,
    )  # fmt: skip


def svg(figure: Any, title: str) -> str:
    """The figure without XML prologue, in the page's own font, and readable aloud."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"font: (\S+ )?(\d+\S*px) [^;\"]+", r"font: \1\2 inherit", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
