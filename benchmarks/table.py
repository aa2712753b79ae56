"""The README's table of measured claims, made of the pages in results/.

    python benchmarks/table.py           writes it between its two marks in README.md

A page states its claims in a table of its own, under `| claim | against | measured | accepted |`,
and the date and the commit in its head. The newest page that states a claim is the one that counts.
"""

import re
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN = "<!-- measured: made by benchmarks/table.py -->"
END = "<!-- /measured -->"
HEAD = "| claim | against | measured | accepted |"
NOTED = re.compile(r"^(\d{4}-\d\d-\d\d).*?commit (?P<commit>[0-9a-f]{7,})", re.MULTILINE)


class Claim(NamedTuple):
    """What a page says it has shown, in the words of its author."""

    work: str
    against: str
    measured: str
    accepted: str = ""


def stated(claims: list[Claim]) -> list[str]:
    """The lines of a page that `claims_of` reads back."""
    rows = [f"| {' | '.join(claim)} |" for claim in claims]
    return ["", HEAD, "|---|---|---|---|", *rows] if claims else []


def claims_of(text: str) -> list[Claim]:
    """The claims of a page, empty where it states none."""
    _, found, rest = text.partition(f"{HEAD}\n")
    rows = rest.splitlines()[1:] if found else []
    claims = []
    for row in rows:
        if not row.startswith("| "):
            break
        claims.append(Claim(*(cell.strip() for cell in row.strip("|").split("|"))))
    return claims


def table(results: Path = HERE / "results") -> str:
    """The claims of all pages, in the order of the pages' names."""
    newest: dict[tuple[str, str], tuple[str, str]] = {}
    for page in sorted(results.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        head = NOTED.search(text)
        for claim in claims_of(text):
            assert head is not None, f"{page} states a claim, but no date and commit"
            link = f"[{head[1]}](benchmarks/results/{page.name})"
            cells = (*claim, f"{link}, {head['commit'][:7]}")
            key = claim.work, claim.against
            newest[key] = max(newest.get(key, ("", "")), (head[1], f"| {' | '.join(cells)} |"))
    top = ["| work | against | measured | accepted | page, commit |", "|---|---|---|---|---|"]
    return "\n".join([*top, *(row for _, row in newest.values())])


def placed(readme: str, block: str) -> str:
    """The README with `block` between the marks."""
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"README.md lacks {BEGIN} or {END}"
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(placed(README.read_text(encoding="utf-8"), table()), encoding="utf-8")
    print(table())
