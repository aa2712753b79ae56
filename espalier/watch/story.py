"""What stands above the table, and all there is to say of one trial."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

from espalier.watch import view
from espalier.watch.live import Live
from espalier.watch.rows import CURVE, Row
from espalier.watch.view import View

COLOURS = {
    "RUNNING": "bold cyan",
    "COMPLETE": "green",
    "FAILED": "bold red",
    "KILLED": "yellow",
    "INTERRUPTED": "yellow",
}
TAIL = 4000  # bytes of what a trial said


def head(live: Live, shown: View, number: int) -> Text:
    """The study, its trials by state, and what the view does to them."""
    states = ", ".join(f"{n} {state.lower()}" for state, n in live.counts().items())
    words = [f"{live.place}   {len(live.rows)} trials: {states or 'none yet'}"]
    if shown.rules:
        words.append(f"{number} in sight: {', '.join(str(rule) for rule in shown.rules)}")
    if not live.read:
        words.append("reading ...")
    return Text("   ".join(words))


def best(rows: Iterable[Row]) -> float | None:
    """The lowest loss in sight."""
    found = [value for row in rows if isinstance(value := row["best"], (int, float))]
    return min(found, default=None)


def details(live: Live, row: Row) -> str:
    """Every cell, and the end of what the trial said."""
    names = [name for name in live.columns if name != CURVE and row[name] is not None]
    wide = max(len(name) for name in names)
    told = [f"{name:<{wide}}  {view.shown(name, row[name])}" for name in names]
    log = live.place / "trials" / f"{row.key}.log"
    said = _end(log)
    return "\n".join([*told, "", f"{log}:", said] if said else told)


def _end(file: Path) -> str:
    """The last lines of a text that may be long, or not be there."""
    try:
        with file.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - TAIL)
            stream.seek(start)
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[2].strip() if start else text.strip()
