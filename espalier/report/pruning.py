"""Pruning curves of one or several runs, drawn from their results/prune.json and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from espalier.durable import read_json, write_whole
from espalier.errors import UserError
from espalier.report.figures import GREEN, GREY, INK, RUST, drawing, svg
from espalier.units import count, size

FORMAT = "espalier-prune-1"
COLORS = (GREEN, RUST, INK, "#3b6ea5", "#8a5a9e", "#c29b2e", GREY)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One method on one run."""

    name: str
    levels: Sequence[Record]
    texts: Record

    def points(self, x: str, y: str) -> Iterator[tuple[float, Record]]:
        """`x` of each level, a dotted path, and the interval at `y`."""
        for level in self.levels:
            value: Any = level
            for key in x.split("."):
                value = value[key]
            yield float(value), level[y]


def read(files: Mapping[str, Path]) -> dict[str, Record]:
    """Results by the name that each is to have. UserError for a file of another kind."""
    found: dict[str, Record] = {}
    for name, file in files.items():
        results = read_json(file)
        if not isinstance(results, dict) or results.get("format") != FORMAT:
            raise UserError(f"{file} is no results/prune.json of this version ({FORMAT})")
        found[name] = results
    return found


def curves(results: Mapping[str, Record]) -> list[Curve]:
    """Every curve, named by what tells it from the others."""
    several = len(results) > 1
    found = []
    for run, content in results.items():
        kinds = [_kind(curve["settings"]) for curve in content["curves"]]
        for kind, curve in zip(kinds, content["curves"], strict=True):
            name = f"{run}: {kind}" if several and len(set(kinds)) > 1 else run if several else kind
            found.append(Curve(name, curve["levels"], curve["settings"]["texts"]["validation"]))
    return found


def _kind(settings: Record) -> str:
    pattern = settings["pattern"]
    scope = f"{pattern[0]}:{pattern[1]}" if pattern else settings["scope"]
    steps = settings["finetune"]["steps"]
    after = f", {steps:,} steps after" if steps else ""
    with_tables = "".join(f", {name} too" for name in settings["include"])
    return f"{settings['method']['name']}, {scope}{with_tables}{after}"


def comparable(found: Sequence[Curve]) -> bool:
    """Were all judged on the same windows?"""
    return len({str(sorted(curve.texts.items())) for curve in found}) <= 1


def figures(results: Mapping[str, Record], band: str = "95 % interval") -> dict[str, str]:
    """Charts as SVG by name: `curve`, `frontier`, and `layout` where a model has neurons.

    `band` says what the intervals are. Raises UserError for runs judged on different text.
    """
    found = [curve for curve in curves(results) if curve.levels]
    if len(results) > 1 and not comparable(found):
        raise UserError("these runs were judged on different windows of text: no common chart")
    drawn = {}
    if found:
        drawn["curve"] = _curve(found, band)
        drawn["frontier"] = _frontier(found, band)
    for name, content in results.items():
        if content.get("layout"):
            key = "layout" if len(results) == 1 else f"layout-{name}"
            drawn[key] = _layout(name, content["layout"])
    return drawn


def _curve(found: Sequence[Curve], band: str) -> str:
    """Perplexity, on a log axis, over the share of prunable weights that is gone."""
    title = f"Pruning curve: perplexity of validation text, {band}"
    with drawing(title, (8.2, 3.8)) as (figure, axes):
        for curve, color in zip(found, _colors(found), strict=True):
            _plot(axes, curve, color, x="sparsity", scale=100.0, transform=math.exp)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: count(value))
        axes.yaxis.set_minor_formatter(lambda value, _: count(value))
        axes.set_xlabel("prunable weights taken away, %")
        _legend(axes, found)
        return svg(figure, title)


def _frontier(found: Sequence[Curve], band: str) -> str:
    """Loss over the parameters that are not zero, fewer to the right."""
    title = f"Efficiency frontier: validation loss (nats), {band}"
    with drawing(title, (8.2, 3.8)) as (figure, axes):
        for curve, color in zip(found, _colors(found), strict=True):
            _plot(axes, curve, color, x="parameters.nonzero", scale=1.0, transform=float)
        axes.invert_xaxis()
        axes.xaxis.set_major_formatter(lambda value, _: count(value))
        axes.set_xlabel("parameters that are not zero")
        _legend(axes, found)
        return svg(figure, title)


def _plot(axes: Any, curve: Curve, color: str, *, x: str, scale: float, transform: Any) -> None:
    points = list(curve.points(x, "loss"))
    places = [scale * place for place, _ in points]
    middles = [transform(loss["mean"]) for _, loss in points]
    lows = [transform(_or(loss["low"], loss["mean"])) for _, loss in points]
    highs = [transform(_or(loss["high"], loss["mean"])) for _, loss in points]
    axes.fill_between(places, lows, highs, color=color, alpha=0.15, linewidth=0)
    axes.plot(places, middles, color=color, marker="o", markersize=3.5, label=curve.name)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _colors(found: Sequence[Curve]) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(found))]


def _legend(axes: Any, found: Sequence[Curve]) -> None:
    if len(found) > 1:
        axes.legend(frameon=False)


def _layout(name: str, layers: Sequence[Record]) -> str:
    """Branches of each layer, neuron upon neuron; the number in each is a branch's width."""
    title = f"Cortical layout of {name}: branches by layer"
    with drawing(title, (8.2, 2.8)) as (figure, axes):
        for layer in layers:
            bottom = 0
            for number, neuron in enumerate(layer["shape"]):
                branches, width = (int(word) for word in neuron.split("x"))
                shade = COLORS[number % len(COLORS)]
                place = layer["layer"]
                axes.bar(place, branches, bottom=bottom, width=0.7, color=shade, alpha=0.55)
                axes.text(place, bottom + branches / 2, width, ha="center", va="center", fontsize=7)
                bottom += branches
        axes.set_xlabel("layer (the number in a neuron: width of its branches)")
        axes.set_xticks([layer["layer"] for layer in layers])
        return svg(figure, title)


def write(drawn: Mapping[str, str], folder: Path) -> list[Path]:
    """Charts as files of their own, FOLDER/curve.svg and so on."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder for the charts")
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / f"{name}.svg" for name in drawn]
    for place, text in zip(places, drawn.values(), strict=True):
        write_whole(place, text.replace("inherit", "sans-serif") + "\n")
    return places


def table(results: Record) -> str:
    """Every level as rows of an HTML table."""
    heads = "level", "loss (95 %)", "perplexity", "not zero", "on disk", "decoding"
    parts = []
    for curve in curves({"": results}):
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(level))}</tr>"
            for level in curve.levels
        )
        head = "".join(f"<td>{escape(word)}</td>" for word in heads)
        parts.append(
            f'<p class="label">{escape(curve.name)}</p><table><tr>{head}</tr>{rows}</table>'
        )
    return "".join(parts)


def cells(level: Record) -> tuple[str, ...]:
    """A level in words, for a table."""
    loss, speed = level["loss"], level.get("speed")
    spread = "" if loss["low"] is None else f" ({loss['low']:.3f} to {loss['high']:.3f})"
    return (
        f"{level['level']:g} % ({100 * level['sparsity']:.1f} %)",
        f"{loss['mean']:.4f}{spread}",
        f"{level['perplexity']:.3f}",
        f"{level['parameters']['nonzero']:,} of {level['parameters']['total']:,}",
        f"{size(level['bytes']['dense'])}; {size(level['bytes']['sparse'])} without zeros",
        f"{speed['decode']['ratio']:.2f} x" if speed else "not measured",
    )


def section(name: str, results: Record) -> str:
    """What a run's page shows: charts, then numbers."""
    drawn = "".join(f"<figure>{one}</figure>" for one in figures({name: results}).values())
    return drawn + table(results)
