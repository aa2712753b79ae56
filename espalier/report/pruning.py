"""Pruning curves of one or several runs, drawn from their results/prune.json and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from espalier.durable import read_json, write_whole
from espalier.errors import UserError
from espalier.report.figures import GREEN, GREY, INK, RUST, drawing, svg
from espalier.study.axis import short, words
from espalier.units import count, size

FORMAT = "espalier-prune-1"
DIGEST = 32  # characters, from which a text is taken for one
COLORS = (GREEN, RUST, INK, "#3b6ea5", "#8a5a9e", "#c29b2e", GREY)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One method on one run."""

    name: str
    levels: Sequence[Record]
    corpus: str
    """digest of what it was judged on"""
    windows: Record
    """of its validation text"""

    @property
    def judge(self) -> str:
        """Equal for curves that may be compared."""
        return json.dumps([self.corpus, self.windows], sort_keys=True)

    @property
    def text(self) -> str:
        return f"{self.windows['windows']} windows of corpus {_brief(self.corpus)}"

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
    names: list[str] = []
    found = [curve for content in results.values() for curve in content["curves"]]
    for run, content in results.items():
        kinds = [_kind(curve["settings"]) for curve in content["curves"]]
        for kind in kinds:
            many = several and len(set(kinds)) > 1
            names.append(f"{run}: {kind}" if many else run if several else kind)
    told = _told_apart(names, [dict(_leaves(curve["settings"])) for curve in found])
    return [_curve_of(name, curve) for name, curve in zip(told, found, strict=True)]


def _curve_of(name: str, curve: Record) -> Curve:
    texts = curve["settings"]["texts"]
    return Curve(name, curve["levels"], texts["corpus"], texts["validation"])


def _told_apart(names: Sequence[str], settings: Sequence[Record]) -> Iterator[str]:
    """The names; equal ones go on with the settings that differ between them."""
    for name, own in zip(names, settings, strict=True):
        alike = [one for other, one in zip(names, settings, strict=True) if other == name]
        paths = short(path for path in own if any(one.get(path) != own[path] for one in alike))
        yield ", ".join([name, *(f"{word} {_brief(own[path])}" for path, word in paths.items())])


def _leaves(tree: Record, at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _brief(value: Any) -> str:
    """Of a digest its beginning."""
    text = words(value)
    return text[:8] if len(text) >= DIGEST else text


def _kind(settings: Record) -> str:
    pattern = settings["pattern"]
    scope = f"{pattern[0]}:{pattern[1]}" if pattern else settings["scope"]
    steps = settings["finetune"]["steps"]
    after = f", {steps:,} steps after" if steps else ""
    with_tables = "".join(f", {name} too" for name in settings["include"])
    return f"{settings['method']['name']}, {scope}{with_tables}{after}"


def comparable(found: Sequence[Curve]) -> list[list[Curve]]:
    """Those that were judged on the same windows of the same text, together."""
    groups: dict[str, list[Curve]] = {}
    for curve in found:
        groups.setdefault(curve.judge, []).append(curve)
    return list(groups.values())


def figures(results: Mapping[str, Record], band: str = "95 % interval") -> dict[str, str]:
    """Charts as SVG by name: `curve`, `frontier`, and `layout` where a model has neurons.

    `band` says what the intervals are. One run's curves on several texts have charts for each:
    `curve-1`, `frontier-1` and so on. Raises UserError for runs judged on different text.
    """
    groups = comparable([curve for curve in curves(results) if curve.levels])
    if len(results) > 1 and len(groups) > 1:
        raise UserError(
            "these runs were judged on different windows of text, or different texts: "
            "no common chart"
        )
    drawn = {}
    for number, found in enumerate(groups, 1):
        tail, about = "", band
        if len(groups) > 1:
            tail, about = f"-{number}", f"{found[0].text}, {band}"
        drawn[f"curve{tail}"] = _curve(found, about)
        drawn[f"frontier{tail}"] = _frontier(found, about)
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
        axes.legend(frameon=False)
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
        axes.legend(frameon=False)
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
