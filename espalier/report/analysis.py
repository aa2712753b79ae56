"""Figures of what `espalier analyze` found, drawn from its results file and nothing else."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espalier.durable import write_whole
from espalier.report.figures import GREEN, GREY, INK, RUST, drawing, over_steps, svg
from espalier.units import count

Record = Mapping[str, Any]
COLORS = (GREEN, RUST, INK, "#3b6ea5", "#8a5a9e", "#c29b2e", GREY)
SHOWN = 40  # places in one chart
PANELS = 24  # histograms in one figure
LINES = 7  # curves in one chart


class Drawn(NamedTuple):
    svg: str
    png: bytes


def drawn(figure: Any, title: str) -> Drawn:
    """The figure as both kinds of file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # text in a script that the font lacks shows as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
        return Drawn(svg(figure, title), buffer.getvalue())


def write(found: Mapping[str, Drawn], folder: Path) -> list[Path]:
    """FOLDER/NAME.svg and FOLDER/NAME.png of each."""
    folder.mkdir(parents=True, exist_ok=True)
    places = []
    for name, one in found.items():
        for place, content in (
            (folder / f"{name}.svg", one.svg.replace("inherit", "sans-serif") + "\n"),
            (folder / f"{name}.png", one.png),
        ):
            write_whole(place, content)
            places.append(place)
    return places


def figures(results: Record) -> dict[str, Drawn]:
    """Charts by name, of a view's results."""
    from espalier.report import inside

    kind = results["view"]
    if "charts" in results:
        return {f"{kind}-{name}": one for name, one in inside.figures(results["charts"])}
    charts = _neurons(results) if kind == "neurons" else _tensors(results)
    return {f"{kind}-{name}": one for name, one in charts}


def _neurons(results: Record) -> Iterator[tuple[str, Drawn]]:
    sections = results["sections"]
    waves = sections.get("oscillating", {})
    for key in ("omega", "phi", "baseline") if waves else ():
        yield key, _distributions(f"{key} of each layer's neurons", waves, key)
    if waves:
        shares = {path: 100 * one["oscillating"] for path, one in waves.items()}
        yield "oscillating", bars("Neurons that still oscillate, %", shares)
    silent = sections.get("told", {}).get("silent")
    if silent:
        by_layer = {f"part {i}": 100 * share for i, share in enumerate(silent)}
        yield "silent", bars("Silent features, %", by_layer)
    layers = sections.get("competition", {})
    if layers:
        weights = {
            f"{path} neuron {i}": neuron["share"]
            for path, layer in layers.items()
            for i, neuron in enumerate(layer["neurons"])
        }
        yield "competition", bars("Weight in the competition, over an equal share", weights)


def _tensors(results: Record) -> Iterator[tuple[str, Drawn]]:
    steps = results["steps"]
    newest = steps[max(steps, key=int)]
    what = "weights" if results["view"] == "weights" else "outputs"
    for key, title in (("deviation", "Deviation"), ("excess_kurtosis", "Excess kurtosis")):
        values = {path: one[key] for path, one in newest.items()}
        yield key, bars(f"{title} of {what}", values)
        if len(steps) > 1:
            yield f"{key}-by-step", _over_steps(f"{title} of {what} by step", steps, key)
    yield "histograms", _panels(f"Histograms of {what}", newest)
    for name, place in (("before", "scores"), ("after", "weights")):
        attention = results.get("scores", {})
        if attention:
            found = {path: one[name] for path, one in attention[max(attention, key=int)].items()}
            yield f"scores-{name}", _panels(f"Attention {place} {name} the normaliser", found)


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: v for name, v in values.items() if v is not None and math.isfinite(v)}


def bars(title: str, values: Mapping[str, float | None]) -> Drawn:
    """A bar for each place, in order; where there are too many, those of the largest values."""
    known = _finite(values)
    largest = set(sorted(known, key=lambda name: -abs(known[name]))[:SHOWN])
    shown = {name: v for name, v in known.items() if name in largest}
    with drawing(title, (8.2, 1.0 + 0.2 * len(shown))) as (figure, axes):
        places = range(len(shown))
        axes.barh(places, list(shown.values()), color=GREEN, height=0.7)
        axes.set_yticks(places, [short(name) for name in shown], fontsize=7)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: count(value))
        return drawn(figure, title)


def _over_steps(title: str, steps: Record, key: str) -> Drawn:
    """Curves of the places whose value moved most."""
    order = sorted(steps, key=int)
    moved: dict[str, float] = {}
    for path in steps[order[-1]]:
        values = [steps[step].get(path, {}).get(key) for step in order]
        if all(v is not None and math.isfinite(v) for v in values):
            moved[path] = max(values) - min(values)
    chosen = sorted(moved, key=lambda path: -moved[path])[:LINES]
    with drawing(title, (8.2, 3.6)) as (figure, axes):
        for path, color in zip(chosen, COLORS, strict=False):
            values = [steps[step][path][key] for step in order]
            axes.plot([int(s) for s in order], values, color=color, marker="o", label=short(path))
        over_steps(axes)
        if chosen:
            axes.legend(frameon=False, fontsize=7)
        return drawn(figure, title)


def _distributions(title: str, layers: Record, key: str) -> Drawn:
    """One outline for each layer, shaded from the first to the last."""
    with drawing(title, (8.2, 3.2)) as (figure, axes):
        for number, (path, one) in enumerate(layers.items()):
            histogram = one[key]["histogram"]
            if histogram["counts"]:
                shade = COLORS[number % len(COLORS)]
                axes.stairs(
                    histogram["counts"],
                    histogram["edges"],
                    color=shade,
                    label=short(path),
                    zorder=3,
                )
        axes.legend(frameon=False, fontsize=7)
        return drawn(figure, title)


def _panels(title: str, places: Record) -> Drawn:
    """A small histogram for each of at most PANELS places, evenly chosen."""
    names = [name for name, one in places.items() if one["histogram"]["counts"]]
    names = names if len(names) <= PANELS else names[:: -(-len(names) // PANELS)]
    rows = max(1, -(-len(names) // 4))
    with drawing(title, (8.2, 0.4 + 1.25 * rows)) as (figure, axes):
        axes.remove()
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        grid = figure.subplots(rows, 4, squeeze=False)
        for panel in grid.flat:
            panel.set_axis_off()
        for panel, name in zip(grid.flat, names, strict=False):
            histogram = places[name]["histogram"]
            panel.set_axis_on()
            panel.stairs(histogram["counts"], histogram["edges"], fill=True, color=GREEN)
            panel.set_title(short(name), fontsize=6)
            panel.set_yticks([])
            panel.tick_params(labelsize=6, length=0)
            panel.locator_params(axis="x", nbins=3)
            panel.xaxis.set_major_formatter(lambda value, _: count(value))
        return drawn(figure, title)


def short(path: str) -> str:
    """A module's path without what all of them begin with."""
    return path.removeprefix("trunk.").removeprefix("stack.")
