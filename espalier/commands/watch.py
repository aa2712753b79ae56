"""`espalier watch STUDY`: its trials as a live table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from espalier import console
from espalier.errors import UserError, need

if TYPE_CHECKING:
    from espalier.watch.live import Live
    from espalier.watch.view import View


def watch(
    study: Path,
    /,
    *,
    sort: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    columns: str = "",
    where: Annotated[list[str] | None, Parameter(negative=())] = None,
    every: float = 1.0,
    once: Annotated[bool, Parameter(negative=())] = False,
    csv: Path | None = None,
) -> dict[str, Any]:
    """A study's trials, while they run or after: sort, hide, choose columns, plot, export.

    Reads the study's files and nothing else, so it works over SSH and for any number of watchers.
    The keys stand below the table. Without a terminal, the table is printed once.

    Example: espalier watch studies/norms
    Example: espalier watch studies/norms --sort norm,-best --where state=complete --csv norms.csv

    Parameters
    ----------
    study
        The directory of a sweep or a search.
    sort
        Columns, the first decides; -best begins with the highest.
    columns
        Those to show, in this order.
    where
        Keep the rows where COLUMN=VALUE holds; != < > <= >= too; may be given several times.
    every
        Seconds between two looks.
    once
        Print the table and leave.
    csv
        Write the rows to this file, and leave.
    """
    from espalier.watch.live import Live

    if not every > 0:
        raise UserError(f"--every must be above 0 seconds, got {every:g}")
    live, follow = Live(study), _interactive() and not once and csv is None
    live.refresh(0.0 if follow else float("inf"))
    chosen = _view(live, sort, columns, where or [])
    if not follow:
        return _told(live, chosen, csv)
    need("textual", "web")
    from espalier.watch.app import Watcher

    app = Watcher(live, chosen, every)
    app.run()
    return _facts(live, app.view)


def _interactive() -> bool:
    return console.on_terminal(sys.stdin) and console.on_terminal(sys.stderr)


def _view(live: Live, sort: str, columns: str, where: list[str]) -> View:
    """What the options say. UserError names a column that is not there."""
    from espalier.watch.view import View, column, rule

    known = live.columns
    names = tuple(column(name.strip(), known) for name in columns.split(",") if name.strip())
    found = View(names or None, rules=tuple(rule(text, known) for text in where))
    for name in (name.strip() for name in sort.split(",") if name.strip()):
        key = column(name.removeprefix("-"), known)
        found = found.sorted(key)
        found = found.sorted(key) if name.startswith("-") else found
    return found


def _told(live: Live, chosen: View, csv: Path | None) -> dict[str, Any]:
    """Print or write the table."""
    from espalier.durable import write_asked
    from espalier.watch import view

    columns, rows = chosen.shows(live.columns), chosen.rows(live.rows)
    if csv is None:
        for line in view.lines(columns, rows):
            console.out(line)
    else:
        write_asked(csv, view.to_csv(columns, rows))
        console.out(f"wrote {csv}")
    return _facts(live, chosen) | ({} if csv is None else {"csv": str(csv)})


def _facts(live: Live, chosen: View) -> dict[str, Any]:
    columns = chosen.shows(live.columns)
    rows = [{name: row[name] for name in columns} for row in chosen.rows(live.rows)]
    return {"study": str(live.place), "states": live.counts(), "rows": rows}
