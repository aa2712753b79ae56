"""Grow, prune and compare small GPT-style language models.

`load` opens a run, a checkpoint or somebody else's weights; `build` makes a recipe's model. Nothing
heavy is imported before one of them is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier.api import Loaded
    from espalier.nn.gpt import GPT

__all__ = ["build", "load"]


def load(path: str, **how: Any) -> Loaded:
    """A model ready to use: see `espalier.api.load`."""
    from espalier import api

    return api.load(path, **how)


def build(recipe: str, overrides: Sequence[str] = (), device: str = "cpu") -> GPT:
    """A recipe's model, filled from its seed: see `espalier.api.build`."""
    from espalier import api

    return api.build(recipe, overrides, device)
