"""Results of several models side by side, as lines for people. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from espalier.units import count, size

Records = Mapping[str, Mapping[str, Any]]  # of each model, by its name


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width, those with a title set to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if title else cell.ljust(width)
            for cell, width, title in zip(row, widths, rows[0], strict=True)
        ]
        yield "  ".join(["", *cells]).rstrip()


def spread(interval: Mapping[str, Any], digits: int = 4) -> str:
    """`1.2345 (1.2000 to 1.2700)`."""
    text = f"{interval['mean']:.{digits}f}"
    if interval["low"] is None:
        return text
    return f"{text} ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})"


def corpus(name: str, records: Records) -> Iterator[str]:
    """One text, a model in each row, then what the numbers rest on."""
    good = {model: one for model, one in records.items() if "loss" in one}
    first = next(iter(good.values()), None)
    if first is not None:
        many = "s" * (first["documents"] > 1)
        yield f"{name}: {first['documents']:,} document{many}, {count(first['bytes'])} bytes scored"
        titles = _titles(good)
        rows = [_row(model, one)[: len(titles)] for model, one in good.items()]
        yield from table([titles, *rows])
    for model, one in records.items():
        if "refused" in one:
            yield f"  {model}: {one['refused']}"
    for text, models in _alike({model: _basis(one) for model, one in good.items()}).items():
        yield f"  {text}" + (f" [{', '.join(models)}]" if len(models) < len(good) else "")


def _titles(records: Records) -> list[str]:
    against = any(one.get("against") for one in records.values())
    titles = ["", "bits per byte (95 %)", "loss", "perplexity", "tokens", "tokens/s", "memory"]
    return [*titles, "less the first's bits (95 %)"] if against else titles


def _row(model: str, one: Mapping[str, Any]) -> list[str]:
    against = one.get("against")
    return [
        model,
        spread(one["bits_per_byte"]),
        f"{one['loss']['mean']:.4f}",
        f"{one['perplexity']['mean']:.3f}",
        f"{one['tokens']:,}",
        count(one["tokens_per_s"]),
        size(one["peak_bytes"]),
        "" if against is None else spread(against),
    ]


def _basis(one: Mapping[str, Any]) -> str:
    drawn = one["interval"]
    over = f"{drawn['clusters']:,} {drawn['over']}"
    if drawn["clusters"] < 2:
        over = f"none: {over}"
    elif drawn["clusters"] < 20:
        over += ", too few to be sure of"
    return (
        f"context {one['context']}, stride {one['stride']}, {one['dtype']}; first token "
        f"{one['first_token']}; interval over {over}, seed {drawn['seed']}"
    )


def _alike(texts: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for model, text in texts.items():
        found.setdefault(text, []).append(model)
    return found


def task(name: str, records: Records) -> Iterator[str]:
    """One task, its metrics for each model."""
    first = next(iter(records.values()))
    shots = "" if first["shots"] is None else f", {first['shots']} shots"
    yield f"{name}: {first['items']} of {first['items_there']} items{shots}"
    for metric, about in first["metrics"].items():
        better = {True: " (higher is better)", False: " (lower is better)"}
        yield f"  {metric}{better.get(about['higher_is_better'], '')}"
        yield from table([_metric(model, one["metrics"][metric]) for model, one in records.items()])


def _metric(model: str, one: Mapping[str, Any]) -> list[str]:
    return ["", model, spread({"mean": one["value"], **one})]


def behaviour(name: str, records: Records) -> Iterator[str]:
    """One suite, each rule's score for each model."""
    first = next(iter(records.values()))
    yield f"{name}: {first['about']}"
    rows = [
        [model, rule, spread(score, 3), str(score["items"]), _remark(score, one)]
        for model, one in records.items()
        for rule, score in one["scores"].items()
    ]
    if rows:
        yield from table([["", "", "score (95 %)", "items", ""], *rows])
    for model, one in records.items():
        if one["unwritable"]:
            yield f"  {model}: cannot write {one['unwritable']} of {one['items']} items"


def _remark(score: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    parts = ["lower is better"] if score["better"] == "lower" else []
    if "chance" in score:
        parts.append(f"chance {score['chance']:.3f}")
    if "loops" in score:
        parts.append(f"loops {spread(score['loops'], 3)}")
    if "right" in score:
        parts.append(f"right {score['right']:.3f}")
    if one["cut"]:
        parts.append(f"{one['cut']} prompts cut")
    return ", ".join(parts)


MOST_PAGES = 40  # of which a line each is shown


def ocr(name: str, records: Records) -> Iterator[str]:
    """One corpus of pages: each model's rates, then its losses, then page after page."""
    first = next(iter(records.values()))
    half = "" if first["split"] == "val" else f" of its {first['split']} split, known to the model"
    yield f"{name}: {first['pages']:,} pages{half}"
    rows = [["", "exact (95 %)", "CER", "WER", "NED", "overlap", "loops"]]
    for model, one in records.items():
        parts = [spread(one[key], 3) for key in ("exact", "cer", "wer", "ned", "overlap")]
        rows.append([model, *parts, f"{one['loops']:.3f}"])
    yield from table(rows)
    rows = [["", "loss", "another's image", "white paper", "of the first"]]
    for model, one in records.items():
        losses = [_loss(one[key]) for key in ("loss", "wrong_image", "blank_image")]
        over = one["wrong_over_right"]
        rows.append([model, *losses, "" if over is None else f"{over:.1f}x"])
    yield from table(rows)
    for model, one in records.items():
        yield from _warned(model, one)
        yield from _pages(model, one["each"])


def _loss(interval: Mapping[str, Any] | None) -> str:
    return "" if interval is None else f"{interval['mean']:.4f}"


def _warned(model: str, one: Mapping[str, Any]) -> Iterator[str]:
    alike = one["feature_cosine"]
    if alike is not None:
        end = ": the encoder has collapsed, it sees every page alike" if one["collapsed"] else ""
        yield f"  {model}: cosine between the features of different images {alike:.4f}{end}"
    if one["too_long"]:
        yield f"  {model}: {one['too_long']:,} pages do not fit its block and were left out"


def _pages(model: str, pages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = pages[:MOST_PAGES]
    rows = [[model, "loss", "overlap", ""]]
    for one in shown:
        remark = "exact" if one["exact"] else f"CER {one['cer']:.3f}" + ", loops" * one["looped"]
        rows.append([one["id"], f"{one['loss']:.4f}", f"{one['overlap']:.3f}", remark])
    yield from table(rows)
    if len(pages) > len(shown):
        yield f"  and {len(pages) - len(shown):,} more"


def speed(records: Records) -> Iterator[str]:
    """Reading and writing, each model at its sizes."""
    rows = [["", "prefill tokens/s", "decode tokens/s", "memory", ""]]
    for model, one in records.items():
        sizes = f"{one['rows']} x ({one['prompt']} + {one['new']}) tokens, {one['weights']}"
        rows.append(
            [
                model,
                count(one["prefill_tokens_per_s"]),
                count(one["decode_tokens_per_s"]),
                size(one["peak_bytes"]),
                sizes,
            ]
        )
    yield "speed, medians of rounds"
    yield from table(rows)
