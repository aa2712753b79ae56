"""A conclusion with its numbers put in from the runs' files, and whatever does not match marked.

[RUN] cites a run, [RUN:FIELD] a number of it, [A:FIELD - B:FIELD] a difference. Any other number
with a point, a per cent sign or four digits has to stand in a file of a run that its paragraph
cites (in one of any run, where it cites none), to the digits written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from espalier.agent.facts import Facts

_RUN, _FIELD = r"[A-Za-z0-9_][\w./-]*?", r"[\w.*@-]+?"
CITED = re.compile(
    rf"\[(?P<run>{_RUN})(?::(?P<field>{_FIELD}))?"
    rf"(?:\s+[-−]\s+(?P<other>{_RUN}):(?P<less>{_FIELD}))?\](?!\()"
)
NUMBER = re.compile(r"(?<![\w.:/-])[-+−]?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)?\s?%?(?![\w/])")
MARK = "⚠"


@dataclass(frozen=True)
class Checked:
    """A text as the report prints it, the runs that it cites, and a line for each mismatch."""

    text: str
    cited: tuple[str, ...]
    wrong: tuple[str, ...]


def check(text: str, runs: Mapping[str, Facts]) -> Checked:
    """Fill in and check a text, paragraph by paragraph."""
    wrong: list[str] = []
    cited: list[str] = []
    paragraphs = []
    for paragraph in re.split(r"(\n\s*\n)", text):
        here = [name for name in _names(paragraph) if name in runs]
        cited += here
        known = [runs[name] for name in here] or list(runs.values())
        paragraphs.append(_paragraph(paragraph, runs, known, wrong))
    return Checked("".join(paragraphs), tuple(dict.fromkeys(cited)), tuple(wrong))


def _names(text: str) -> Iterator[str]:
    for found in CITED.finditer(text):
        yield from (name for name in (found["run"], found["other"]) if name)


def _paragraph(text: str, runs: Mapping[str, Facts], known: list[Facts], wrong: list[str]) -> str:
    pieces, at = [], 0
    for found in CITED.finditer(text):
        pieces.append(_bare(text[at : found.start()], known, wrong))
        pieces.append(_citation(found, runs, wrong))
        at = found.end()
    return "".join([*pieces, _bare(text[at:], known, wrong)])


def _citation(found: re.Match[str], runs: Mapping[str, Facts], wrong: list[str]) -> str:
    values = []
    for name, field in ((found["run"], found["field"]), (found["other"], found["less"])):
        if name is None:
            continue
        if name not in runs:
            wrong.append(f"{found[0]}: the study has no run {name}")
            return f"{found[0]} {MARK}"
        if field is None:
            continue
        if field not in runs[name].numbers:
            wrong.append(f"{found[0]}: {name} has no number {field}")
            return f"{found[0]} {MARK}"
        values.append(runs[name].numbers[field])
    if not values:
        return found[0]
    number = shown(values[0] - values[1] if found["other"] and len(values) == 2 else values[0])
    where = f"{found['run']} − {found['other']}" if found["other"] else found["run"]
    return f"{number} [{where}]"


def _bare(text: str, known: list[Facts], wrong: list[str]) -> str:
    """Numbers that the model wrote itself."""

    def look(found: re.Match[str]) -> str:
        word = found[0]
        if not re.search(r"[.%eE]|\d{4}", word.replace(",", "").replace("_", "")):
            return word
        if any(_same(word, value) for facts in known for value in facts.numbers.values()):
            return word
        wrong.append(f"{word.strip()}: in no file of the runs cited there")
        return f"{word} {MARK}"

    return NUMBER.sub(look, text)


def _same(word: str, value: float) -> bool:
    """Whether `value` is written `word`, to the digits that it has."""
    plain = re.sub(r"[,_\s%]", "", word).replace("−", "-")
    mantissa, _, power = plain.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(power or 0)
    scale = 100 if word.rstrip().endswith("%") else 1
    return abs(float(plain) - scale * value) <= 0.5000001 * 10.0**-decimals


def shown(number: float) -> str:
    """Whole numbers with commas, others to five digits."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:.5g}"
