"""Rows as a page of tables and as one JSON file."""

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from espalier import provenance

Rows = Sequence[Mapping[str, object]]
OWN = {"name", "ok", "why"}
MARKS = {True: "yes", False: "**NO**", None: "-"}


def write(out: Path, scale: str, sections: Mapping[str, Rows]) -> None:
    """results.json and results.md in `out`."""
    head = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "scale": scale,
        "commit": provenance.commit(),
        "python": platform.python_version(),
    }
    whole = {**head, "sections": sections}
    (out / "results.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(page(head, sections), encoding="utf-8")


def page(head: Mapping[str, object], sections: Mapping[str, Rows]) -> str:
    lines = ["# One GPU", "", ", ".join(f"{key} {value}" for key, value in head.items())]
    lines += ["", *failures(sections)]
    for name, rows in sections.items():
        lines += ["", f"## {name}", "", *_table([row for row in rows if row["name"] != "end"])]
        for row in rows:
            if row["name"] == "end":
                lines += ["", f"{row['seconds']:.0f} s, at most {row['peak_gb']:.2f} GB"]
    return "\n".join(lines) + "\n"


def failures(sections: Mapping[str, Rows]) -> list[str]:
    """A line for each row that is not right."""
    wrong = [
        f"* {section}: {row['name']}{': ' if row.get('why') else ''}{row.get('why', '')}"
        for section, rows in sections.items()
        for row in rows
        if row["ok"] is False
    ]
    return [f"{len(wrong)} rows failed:", "", *wrong] if wrong else ["No row failed."]


def _table(rows: Rows) -> list[str]:
    if not rows:
        return ["nothing"]
    figures = list(dict.fromkeys(key for row in rows for key in row if key not in OWN))
    names = ["", *figures, "right", "why"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        cells = [str(row["name"]), *(_cell(row.get(key)) for key in figures)]
        cells += [MARKS[row["ok"]], str(row.get("why", ""))]  # type: ignore[index]
        lines.append(f"| {' | '.join(cells)} |".replace("\n", " "))
    return lines


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)
