"""What every page is made of: one document, sections, tables, lists."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("style.css")
NARROW = "\N{NARROW NO-BREAK SPACE}"
SHORT = 20  # characters of a cell that are not broken


def document(title: str, under: str, sections: Iterable[tuple[str, str]]) -> str:
    """A self-contained page: headings and their content, which is HTML; empty ones are left out."""
    body = "\n".join(_section(name, content) for name, content in sections if content)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · Espalier</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="under">{escape(under)}</p>
</header>
{body}
</body>
</html>
"""


def _section(name: str, content: str) -> str:
    heading = f"<h2>{escape(name)}</h2>" if name else ""
    return f"<section>{heading}{content}</section>"


def numbers(cells: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: name, value, and a note in small letters; the first stands out."""
    made: list[str] = []
    for name, value, note in cells:
        first = "" if made else ' class="first"'
        small = f"<small>{escape(note)}</small>" if note else ""
        made.append(f"<div{first}><dt>{escape(name)}</dt><dd>{escape(value)}{small}</dd></div>")
    return f'<dl class="numbers">{"".join(made)}</dl>' if made else ""


def listed(items: Iterable[str]) -> str:
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{rows}</ul>" if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Texts in columns; short ones stay on one line."""
    lines = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><tr>{names}</tr>{lines}</table></div>' if lines else ""


def _text(cell: str) -> str:
    return escape(cell.replace(" ", NARROW) if len(cell) <= SHORT else cell)


def folded(summary: str, content: str) -> str:
    """Behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""
