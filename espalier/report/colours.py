"""Text whose tokens are coloured by a number: for a terminal, and as a page of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Mode = Literal["minmax", "probability", "rank", "dot", "loss"]

# What no colour, the low and the high end of each mode mean.
LEGENDS: dict[Mode, tuple[str, str]] = {
    "minmax": ("the lowest logit of a chosen token here", "the highest"),
    "probability": ("probability 0", "probability 1"),
    "rank": ("rank {k} or beyond", "rank 2; no colour: the likeliest token"),
    "dot": ("cosine -1 with the token before", "cosine 1"),
    "loss": ("the highest loss here", "the lowest"),
}
RED, AMBER, GREEN = (196, 64, 48), (190, 150, 40), (40, 140, 80)


@dataclass(frozen=True)
class Piece:
    """What a token adds to the text, and its place from 0 (red) to 1 (green); None: no colour."""

    text: str
    value: float | None = None
    note: str = ""
    """shown when a reader of the page points at it"""


def scaled(values: Sequence[float]) -> list[float | None]:
    """From the smallest to the largest finite one as 0 to 1; all 1 where they are equal."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high - low
    return [None if not math.isfinite(v) else (v - low) / span if span else 1.0 for v in values]


def ranked(ranks: Sequence[int], k: int) -> list[float | None]:
    """Rank 1 has no colour; from 2 (1.0) to k and beyond (0.0) on a scale of ratios."""
    if k <= 2:
        return [None if rank == 1 else float(rank == 2) for rank in ranks]
    return [
        None if rank == 1 else max(0.0, 1 - math.log(rank / 2) / math.log(k / 2)) for rank in ranks
    ]


def colour(value: float) -> tuple[int, int, int]:
    """Red at 0, amber in the middle, green at 1."""
    first, second, part = (RED, AMBER, 2 * value) if value < 0.5 else (AMBER, GREEN, 2 * value - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def terminal(pieces: Sequence[Piece], *, painted: bool) -> str:
    """With 24-bit escape sequences where `painted`, else the text alone."""
    return "".join(
        _paint(piece.text, piece.value) if painted and piece.value is not None else piece.text
        for piece in pieces
    )


def _paint(text: str, value: float) -> str:
    red, green, blue = colour(value)
    return f"\x1b[1;38;2;{red};{green};{blue}m{text}\x1b[0m"


def legend(mode: Mode, k: int = 0) -> tuple[str, str]:
    """What red means, and what green means."""
    low, high = LEGENDS[mode]
    return low.format(k=k), high


def terminal_legend(mode: Mode, k: int = 0, *, painted: bool) -> str:
    low, high = legend(mode, k)
    if not painted:
        return f"{mode}: red is {low}, green {high} (colours on a terminal, or FORCE_COLOR=1)"
    return f"{mode}: {low} {''.join(_paint('█', step / 9) for step in range(10))} {high}"


def page(title: str, sections: Sequence[tuple[str, str, Sequence[Piece]]]) -> str:
    """One HTML file; each section has a heading, its legend and its pieces."""
    parts = "".join(
        f"<h2>{escape(name)}</h2><p>{escape(about)}</p><pre>{''.join(_spans(pieces))}</pre>"
        for name, about, pieces in sections
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        "<style>body{font:15px/1.6 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "pre{white-space:pre-wrap;font:14px/1.7 monospace}i{font-style:normal;border-radius:2px}"
        f"</style><h1>{escape(title)}</h1>{parts}</html>\n"
    )


def _spans(pieces: Sequence[Piece]) -> Iterator[str]:
    for piece in pieces:
        if piece.value is None and not piece.note:
            yield escape(piece.text)
            continue
        shade = "" if piece.value is None else f' style="background:{_pale(piece.value)}"'
        note = f' title="{escape(piece.note)}"' if piece.note else ""
        yield f"<i{shade}{note}>{escape(piece.text)}</i>"


def _pale(value: float) -> str:
    red, green, blue = colour(value)
    return f"rgb({red} {green} {blue} / 35%)"
