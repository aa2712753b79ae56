"""Our own form of a sweep: a recipe, fixed values, a grid, and seeds that repeat each point."""

import itertools
from typing import Any

from pydantic import Field

from espalier.config import Config, decode
from espalier.study.draft import Draft
from espalier.study.reading import Document


class Sweep(Config):
    """Every combination of the grid's values, once with each seed."""

    recipe: str
    """a shipped recipe or a recipe file"""
    init: str | None = None
    """fine-tune this, as train --init does: the model is its, whatever the recipe says"""
    seeds: tuple[int, ...] = ()
    """replicates of each point; the recipe's own seed when left out"""
    set: dict[str, Any] = Field(default_factory=dict)
    """path -> value, the same in every trial"""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """path -> values"""


def is_ours(document: Document) -> bool:
    return bool({"recipe", "grid", "seeds"} & document.tree.keys())


def drafts(document: Document) -> list[Draft]:
    """The combinations; the last path of the grid changes fastest, seeds faster still."""
    sweep = decode(Sweep, document.tree, where=lambda path: f"{document.at(*path)}: ")
    axes = dict(sweep.grid) | ({"seed": sweep.seeds} if sweep.seeds else {})
    places = {path: document.at("set", path) for path in sweep.set}
    places |= {path: document.at("grid", path) for path in sweep.grid}
    places["seed"] = document.at("seeds")
    return [
        Draft(
            sweep.recipe,
            {**sweep.set, **dict(zip(axes, values, strict=True))},
            tuple(axes),
            places,
            document.at("recipe"),
            sweep.init,
        )
        for values in itertools.product(*axes.values())
    ]
