"""The page: the best, the table, what decides, what it costs, what failed, what stays open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from espalier.report import html
from espalier.report.study import charts, front, importance, parallel
from espalier.report.study.reading import Found
from espalier.study.axis import short, words
from espalier.study.book import COMPLETE, STARTED
from espalier.study.table import Point
from espalier.units import count, duration

ROWS = 20  # of the table; the rest is folded
LONGEST = 60  # characters of a cell


def page(found: Found, recipe: Path | None = None) -> str:
    """One self-contained HTML document; nothing in it points outside. `recipe`: of the best."""
    shares = _shares(found)
    ordered = [*(one.path for one in shares), *found.paths]
    paths = list(dict.fromkeys(ordered))
    sections = [
        ("", html.numbers(_numbers(found))),
        ("Configurations", _table(found)),
        ("Loss", _figure(charts.best(found)) + _figure(charts.progress(found))),
        ("Settings and loss", _figure(parallel.chart(found, paths))),
        ("Importance", _importance(shares)),
        ("Loss and cost", _costs(found)),
        ("The best as a recipe", _recipe(recipe)),
        ("Failed or unfinished", _failures(found)),
        ("What this does not show", html.listed(caveats(found))),
    ]
    return html.document(found.place.resolve().name, _sentence(found), sections)


def caveats(found: Found) -> Iterator[str]:
    """What a reader might conclude and should not."""
    judged = found.judged
    if any(point.lost for point in found.points):
        yield (
            "Stability: configurations that lost seeds (a run failed, or has no finite loss) have "
            "the mean of their luckier ones. They stand last, whatever it is."
        )
    if len(judged) > 1:
        yield (
            f"How good the best is: it was chosen among {len(judged)} by the text it is judged on, "
            "and so looks better than it is. Train it again with other seeds before you say so."
        )
    if any(point.loss and point.loss.number == 1 for point in judged):
        yield (
            "Chance: configurations with one seed have no interval. A difference smaller than what "
            "another seed changes means nothing."
        )
    elif len(judged) > 1:
        yield (
            "Differences: the intervals are of each mean by itself (Student's t, 95 %). Runs with "
            "the same seed share their data order; a paired test sees smaller differences."
        )
    if len({record.get("step") for record in found.records}) > 1:
        yield "One length of training: these runs ended at different steps."
    yield (
        "Importance beyond this study: shares hold for the values that were tried. They see no "
        "settings that matter only together, and where a search chose the values, neither even "
        "coverage nor which of two settings that moved together it was."
    )
    yield "Speed elsewhere: seconds hold for this machine, with all that ran beside."


def _sentence(found: Found) -> str:
    best = found.best
    if best is None:
        return "No run with a finite loss yet."
    names = short(found.paths)
    values = found.values[best.configuration]
    said = ", ".join(f"{names[path]} {_cell(value)}" for path, value in values.items())
    what = f"{best.loss}, with {said or 'the recipe as it is'}."
    if best.lost:
        return f"Every configuration lost seeds. The lowest loss, of {best.replicates}, is {what}"
    if any(point.lost for point in found.points):
        return f"The lowest loss of configurations that lost no seed is {what}"
    return f"The lowest loss is {what}"


def _numbers(found: Found) -> Iterator[tuple[str, str, str]]:
    best = found.best
    if best is not None and best.loss is not None:
        seeds = f"mean of {best.replicates}" if len(best.seeds) > 1 else "one seed"
        half = "" if best.loss.half is None else f", ± {best.loss.half:.4f}"
        yield "lowest validation loss", f"{best.loss.mean:.4f}", f"{seeds}{half}"
        if best.parameters is not None:
            yield "its parameters", count(best.parameters), ""
    yield "configurations", str(len(found.points)), f"{len(found.records)} finished runs"
    bad = [record for record in found.newest.values() if record["state"] != COMPLETE]
    if bad:
        yield "failed or unfinished", str(len(bad)), f"of {len(found.newest)} trials"
    seconds = sum(record.get("seconds") or 0.0 for record in found.records)
    yield "time", duration(seconds), "all runs added up"


def _table(found: Found) -> str:
    names = short(found.paths)
    extra = [name for name in ("bytes", "memory", "energy", "latency") if _known(found, name)]
    head = ["", *names.values(), "loss (95 %)", "seeds", "parameters", *extra, "seconds"]
    rows = [_row(found, number, point, extra) for number, point in enumerate(found.points, 1)]
    rest = html.folded(f"{len(rows) - ROWS} more", html.table(head, rows[ROWS:]))
    return html.table(head, rows[:ROWS]) + rest


def _row(found: Found, number: int, point: Point, extra: Sequence[str]) -> list[str]:
    values, costs = found.values[point.configuration], found.costs[point.configuration]
    return [
        str(number),
        *(_cell(values[path]) for path in found.paths),
        "none finite" if point.loss is None else str(point.loss),
        _seeds(point),
        "" if point.parameters is None else f"{point.parameters:,}",
        *(front.shown(name, costs[name]) if name in costs else "" for name in extra),
        duration(point.seconds),
    ]


def _seeds(point: Point) -> str:
    if not point.lost or len(point.seeds) == 1:
        return ", ".join(str(seed) for seed in point.seeds)
    kept = ", ".join(str(seed) for seed in point.seeds if seed not in point.lost)
    return f"{point.replicates}: {kept or 'none'}"


def _known(found: Found, name: str) -> bool:
    return any(name in costs for costs in found.costs.values())


def _shares(found: Found) -> list[importance.Share]:
    values = [found.values[point.configuration] for point in found.points]
    means = {one.configuration: one.loss.mean for one in found.judged if one.loss}
    losses = [means.get(point.configuration) for point in found.points]
    return importance.shares(values, losses, found.paths)


def _importance(shares: Sequence[importance.Share]) -> str:
    if not shares:
        return ""
    words_ = (
        "The share of the variance of the losses' ranks that goes with a setting's values alone "
        "(one-way analysis of variance, epsilon squared; many numbers as four groups of equal "
        "size). Grey: no more than shuffled losses give."
    )
    return f'{_figure(charts.importance(shares))}<p class="label">{escape(words_)}</p>'


def _costs(found: Found) -> str:
    """A chart for each cost that differs, and the points of their fronts."""
    names = front.costs(found)
    twins = [n for n in names if n == "bytes" and "parameters" in names and _twin(found)]
    drawn = [_figure(front.chart(found, name)) for name in names if name not in twins]
    if not drawn:
        return ""
    note = "Green: nothing is better in loss and cost at once; numbers are those of the table."
    if twins:
        note += " Bytes on the disk are a fixed multiple of the parameters: one chart serves both."
    rows = [
        [front.NAMES.get(name, name), ", ".join(_priced(found, name))]
        for name in names
        if name not in twins
    ]
    table = html.table(["cost", "front, the cheapest first"], rows)
    return f'<div class="pair">{"".join(drawn)}</div><p class="label">{escape(note)}</p>{table}'


def _twin(found: Found) -> bool:
    return front.same(found, "bytes", "parameters")


def _priced(found: Found, name: str) -> Iterator[str]:
    numbers = {point.configuration: i for i, point in enumerate(found.points, 1)}
    for point in front.front(found, name):
        cost = front.shown(name, found.costs[point.configuration][name])
        loss = "" if point.loss is None else f"{point.loss.mean:.4f}"
        yield f"{numbers[point.configuration]} ({cost}: {loss})"


def _recipe(place: Path | None) -> str:
    if place is None:
        return ""
    text = escape(place.read_text(encoding="utf-8"))
    call = f"espalier train {place} --out runs/best"
    return f'<p class="label">{escape(call)}</p>' + html.folded(place.name, f"<pre>{text}</pre>")


def _failures(found: Found) -> str:
    """Every trial that has not come to its end, those that failed first."""
    bad = [record for record in found.newest.values() if record["state"] != COMPLETE]
    bad.sort(key=lambda record: (record["state"] == STARTED, record["state"]))
    names = short(path for record in bad for path in record["settings"])
    rows = [
        [
            record["key"],
            "under way, or killed" if record["state"] == STARTED else record["state"].lower(),
            ", ".join(f"{names[path]} {_cell(v)}" for path, v in record["settings"].items()),
            str(found.tries.get(record["key"], 0)),
            str(record.get("error", "")),
        ]
        for record in bad
    ]
    return html.table(["trial", "state", "settings", "tries", "error"], rows)


def _cell(value: object) -> str:
    text = words(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>" if svg else ""
