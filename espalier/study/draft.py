"""What both forms of a sweep file come to: a recipe, and values at paths."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Draft:
    """One combination, not yet a configuration."""

    recipe: str
    settings: Mapping[str, Any]
    """dotted path -> value, everything that is laid on the recipe"""
    swept: tuple[str, ...]
    """the paths to which its document gives several values"""
    places: Mapping[str, str] = field(default_factory=dict)
    """path -> `file:line` where its value stands"""
    where: str = ""
    """`file:line` of the whole"""
    init: str | None = None
    """the run, checkpoint or model whose shape and weights the recipe takes over"""


def depth(path: str) -> int:
    """Parts are chosen before their fields are set: by the number of names in a path."""
    return path.count(".")
