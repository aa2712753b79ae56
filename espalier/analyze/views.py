"""What a look inside is given, and which looks there are: a file each. Imports no torch.

A view's file offers `look(seen)`, which gives `rows` (a table), `charts` (as
`espalier.report.inside` draws them) and whatever else it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espalier.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from espalier.data.tokenizer.base import Tokenizer
    from espalier.data.tokens import Tokens
    from espalier.nn.gpt import GPT

Found = dict[str, Any]
Rows = list[dict[str, Any]]
Baseline = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class Asked:
    """What a look at the insides may be asked."""

    text: str | None = None
    """attention, lens: look at this text in place of the corpus."""
    prompts: Path | None = None
    """attribution, patching, ablation: YAML, prompts: [{clean, corrupted, answer, wrong}, ...];
    repeated random tokens when left out."""
    tuned: bool = False
    """lens: also train an affine map for each place."""
    baseline: Baseline = "mean"
    """ablation: what takes the place of an activation."""
    label: str = "previous"
    """probe: previous (the class of the character before), position, or a YAML file {token:
    label}."""
    neurons: str | None = None
    """top: numbers with commas; those with the highest peaks when left out."""
    seed: int = 1337
    """Of random sequences, resampling, control tasks."""


TAKES: Mapping[str, frozenset[str]] = {
    "attention": frozenset({"text"}),
    "heads": frozenset({"seed"}),
    "lens": frozenset({"text", "tuned", "seed"}),
    "attribution": frozenset({"prompts", "seed"}),
    "patching": frozenset({"prompts", "seed"}),
    "ablation": frozenset({"prompts", "baseline", "seed"}),
    "top": frozenset({"neurons"}),
    "probe": frozenset({"label", "seed"}),
    "similarity": frozenset(),
}
"""The views, and what each may be asked."""


@dataclass(frozen=True)
class Seen:
    """A model and what it is looked at with. What is a function is asked for only where needed."""

    model: GPT
    block_size: int
    vocab_size: int
    text: Callable[[str], tuple[Tokens, NDArray[np.int64]]]
    """a split's tokens, and where the chosen windows of it start"""
    tokenizer: Callable[[], Tokenizer]
    against: GPT | None = None
    only: str = "*"
    asked: Asked = Asked()


def check(view: str, asked: Asked) -> None:
    """UserError where a view is asked what it does not take."""
    given = {f.name for f in fields(Asked) if getattr(asked, f.name) != f.default}
    for name in sorted(given - TAKES.get(view, frozenset())):
        takers = ", ".join(view for view, names in TAKES.items() if name in names)
        raise UserError(f"--view {view} takes no --{name}; it is for {takers}")


def look(view: str, seen: Seen) -> Found:
    found: Found = import_module(f"espalier.analyze.{view}").look(seen)
    return found


def heat(
    name: str,
    title: str,
    values: Sequence[Sequence[float | None]],
    axes: tuple[list[str], list[str]],
    words: list[list[str]] | None = None,
) -> Found:
    """A chart of a matrix: names of rows and columns; `words` stand in its cells."""
    chart: Found = {
        "kind": "heat",
        "name": name,
        "title": title,
        "values": [list(r) for r in values],
    }
    return chart | {"rows": axes[0], "columns": axes[1], "words": words}


def bars(name: str, title: str, values: Mapping[str, float]) -> Found:
    """A chart of a number for each place."""
    return {"kind": "bars", "name": name, "title": title, "values": dict(values)}


def lines(name: str, title: str, values: Mapping[str, Mapping[str, float]]) -> Found:
    """A chart of curves over places: curve -> place -> value."""
    return {"kind": "lines", "name": name, "title": title, "values": values}
