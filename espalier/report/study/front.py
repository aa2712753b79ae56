"""Which configurations nobody beats at both: a lower loss, and a lower cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from espalier.report.figures import GREEN, GREY, drawing, svg
from espalier.report.study.reading import Found
from espalier.study import pareto
from espalier.study.axis import axis, brief
from espalier.study.table import Point
from espalier.units import count, size

LABELLED = 12  # points of a front that have their number beside them

# What a cost is called; those of a search are the names of its objectives.
NAMES = {
    "parameters": "parameters",
    "bytes": "bytes of the weights on the disk",
    "seconds": "seconds of a run",
    "memory": "bytes in training, as counted",
    "flops": "FLOPs of the whole training",
    "energy": "joules a token, as counted",
    "latency": "milliseconds an update",
}


def costs(found: Found) -> list[str]:
    """What differs between the configurations and is known of each."""
    known = [found.costs[point.configuration] for point in found.judged]
    names = dict.fromkeys(name for one in known for name in one)
    return [name for name in names if all(name in one for one in known) and _differs(known, name)]


def _differs(known: Sequence[Any], name: str) -> bool:
    values = [one[name] for one in known]
    return len(values) > 1 and max(values) > min(values) * (1 + 1e-9)


def same(found: Found, name: str, other: str) -> bool:
    """Whether one cost is a fixed multiple of the other, so that both have one front."""
    pairs = [found.costs[point.configuration] for point in found.judged]
    ratios = [one[name] / one[other] for one in pairs if one.get(other)]
    return len(ratios) == len(pairs) > 0 and max(ratios) <= min(ratios) * 1.01


def front(found: Found, name: str) -> list[Point]:
    """The points that no other beats in loss and cost, the cheapest first."""
    judged = {point.configuration: point for point in found.judged}
    values = {
        key: (found.costs[key][name], point.loss.mean if point.loss else math.inf)
        for key, point in judged.items()
    }
    return [judged[key] for key in pareto.front(values)]


def chart(found: Found, name: str) -> str:
    """An <svg> of loss over a cost; the front is a line, its points have their row's number."""
    title = f"Loss and {NAMES.get(name, name)}"
    kept = front(found, name)
    numbers = {point.configuration: i + 1 for i, point in enumerate(found.points)}
    with drawing(title, (4.0, 2.9)) as (figure, plot):
        others = [point for point in found.judged if point not in kept]
        _dots(plot, found, name, others, GREY)
        _dots(plot, found, name, kept, GREEN)
        across = [found.costs[point.configuration][name] for point in kept]
        plot.step(across, [p.loss.mean for p in kept if p.loss], where="post", color=GREEN)
        for place, point in list(zip(across, kept, strict=True))[:LABELLED]:
            text = str(numbers[point.configuration])
            height = point.loss.mean if point.loss else 0.0
            plot.annotate(text, (place, height), (4, 4), textcoords="offset points", fontsize=7.5)
        every = axis(name, [found.costs[point.configuration][name] for point in found.judged])
        if every.log:
            plot.set_xscale("log")
        plot.xaxis.set_major_formatter(lambda value, _: brief(value))
        plot.set_ylabel("loss")
        return svg(figure, title)


def _dots(plot: Any, found: Found, name: str, points: Sequence[Point], color: str) -> None:
    across = [found.costs[point.configuration][name] for point in points]
    up = [point.loss.mean for point in points if point.loss]
    half = [point.loss.half or 0.0 for point in points if point.loss]
    plot.errorbar(across, up, half, fmt="o", color=color, markersize=3.5, elinewidth=0.8)


def shown(name: str, cost: float) -> str:
    """A cost in words."""
    if name in ("bytes", "memory"):
        return size(cost)
    return count(cost) if name in ("parameters", "flops") else f"{cost:.4g}"
