"""Charts of a study that are curves and bars."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.report.figures import GREEN, GREY, INK, RUST, drawing, over_steps, svg
from espalier.report.reading import finite, thin
from espalier.report.study.importance import Share
from espalier.report.study.reading import Found
from espalier.run import Run
from espalier.study.axis import short, words
from espalier.study.table import Point, loss_of

BEST = 5  # configurations whose curves are drawn
COLORS = (GREEN, RUST, INK, "#3b6ea5", "#8a5a9e")
LEAST = 5  # runs, from which their order is worth a chart


def importance(found: Sequence[Share]) -> str:
    """An <svg> of shares as bars, each with the mark that luck stays below."""
    title = "How much of the loss's variance goes with each setting by itself"
    names = short(one.path for one in found)
    with drawing(title, (8.2, 0.8 + 0.33 * len(found))) as (figure, plot):
        places = range(len(found))
        clear = [GREEN if one.share > one.chance else GREY for one in found]
        plot.barh(places, [100 * one.share for one in found], color=clear, height=0.6)
        plot.scatter(
            [100 * one.chance for one in found], places, marker="|", s=140, color=INK, zorder=3
        )
        plot.set_yticks(places, [names[one.path] for one in found])
        plot.invert_yaxis()
        plot.grid(visible=False)
        plot.set_xlim(left=0)
        plot.set_xlabel("% of the variance of ranks; | : 95 of 100 shuffles stay below")
        return svg(figure, title)


def progress(found: Found) -> str:
    """An <svg> of the runs' losses in the order in which they ended, and the lowest so far."""
    losses = [loss for record in found.records if (loss := loss_of(record)) is not None]
    if len(losses) < LEAST:
        return ""
    title = "Losses in the order in which the runs ended, and the lowest so far"
    lowest = [min(losses[: i + 1]) for i in range(len(losses))]
    with drawing(title, (8.2, 2.8)) as (figure, plot):
        places = range(1, len(losses) + 1)
        plot.plot(places, losses, "o", color=GREY, markersize=3)
        plot.step(places, lowest, where="post", color=GREEN)
        plot.set_xlabel("run")
        plot.margins(x=0.01)
        return svg(figure, title)


def best(found: Found) -> str:
    """An <svg> of the validation losses of the best configurations, one line for each run."""
    lines = []
    for number, point in enumerate(found.judged[:BEST]):
        for seed in point.seeds:
            steps, values = _losses(found, f"{point.configuration}-s{seed}")
            if len(steps) > 1:
                name = f"{number + 1}: {_named(found, point)}" if seed == point.first else ""
                lines.append((name, steps, values, COLORS[number]))
    if not lines:
        return ""
    title = "Validation loss of the best"
    with drawing(title, (8.2, 3.4)) as (figure, plot):
        for name, steps, values, color in lines:
            plot.plot(steps, values, color=color, linewidth=1.1, label=name or None)
        over_steps(plot)
        plot.margins(x=0.01)
        plot.legend(frameon=False, loc="best")
        return svg(figure, title)


def _losses(found: Found, key: str) -> tuple[list[float], list[float]]:
    records = Run(found.place / "runs" / key, {}).metrics()
    return thin(*finite([one for one in records if one["kind"] == "eval"], "val_loss"))


def _named(found: Found, point: Point) -> str:
    names = short(found.paths)
    values = found.values[point.configuration]
    text = ", ".join(f"{names[path]} {words(value)}" for path, value in values.items())
    return text if len(text) <= 60 else text[:59] + "…"
