"""Write docs/parts.md: every part, what it computes and what it costs.

python tools/parts.py [FILE]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from espalier import catalog
from espalier.cost import parts as cost

PAGE = Path(__file__).parent.parent / "docs" / "parts.md"
HEAD = """# Parts

Every part that the package ships, read from its files and counted from models built with it: `make
docs-parts` writes this page, and `espalier parts SLOT NAME` prints a part's lines. Parameters and
operations are those of GPT-2's smallest size, one layer of it: n_embd 768, 12 heads, 1,024 tokens,
50,304 words; of a stack, all of its 12 layers. Operations are those of matrix products for one
token of a full window, two for each multiplication with its addition, causal attention as the full
square. Special functions are those beside + and *, evaluations per element (0: fewer than one, such
as one for a row); passes are how often a row is read before its last result is known.
"""
# What the modular nanoGPT offers (its own count, of which not all run).
ORIGINAL = {
    "attention": 7,
    "score": 17,
    "norm": 7,
    "activation": 23,
    "ffn": 5,
    "linear": 6,
    "optimizer": 43,
    "schedule": 5,
}


def page() -> str:
    """The whole page."""
    found = catalog.slots()
    slots = {name: found[name] for name in [*cost.bases(), *found]}  # those of a model first
    counts = {name: len(catalog.part_files(slot)) for name, slot in slots.items()}
    lines = [HEAD, "## How many", "", "| slot | parts | modular nanoGPT |", "|---|---|---|"]
    for name, count in counts.items():
        lines.append(f"| {name} | {count} | {ORIGINAL.get(name, '')} |")
    lines += [
        "",
        "Its 17 scores are softmax and 16 alternatives. Some of its parts are settings here.",
    ]
    for name, slot in slots.items():
        measured = name in cost.bases()
        lines += ["", f"## {name}", "", slot.summary, "", *(_table(slot, measured=measured))]
    return "\n".join(lines) + "\n"


def _table(slot: catalog.Slot, *, measured: bool) -> Iterator[str]:
    columns = ["part", "what", "formula", "defaults", "paper"]
    if measured:
        columns += ["parameters", "operations", "special", "passes", "caches", "compiles"]
    yield _row(columns)
    yield _row(["---"] * len(columns))
    for part in catalog.parts(slot):
        cells = [
            f"`{part.name}`",
            part.summary,
            part.formula if "`" in part.formula or not part.formula else f"`{part.formula}`",
            ", ".join(f"`{one.name}: {one.default or 'required'}`" for one in part.settings),
            ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in part.papers),
        ]
        yield _row([*cells, *(_measured(slot.name, part.name) if measured else [])])


def _measured(slot: str, name: str) -> list[str]:
    found = cost.facts(slot, name)
    return [
        f"{found.parameters:,}",
        f"{found.flops:,}",
        ", ".join(f"{count:g} {function}" for function, count in found.special.items()),
        str(found.passes),
        f"no: {found.steps}" if found.steps else "yes",
        f"no: {found.compiles}" if found.compiles else "yes",
    ]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(page(), encoding="utf-8")
