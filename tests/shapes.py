"""Checks shapes at run time: `pytest --jaxtyping-packages=espalier,tests.shapes.check`."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])

SHAPE = re.compile(r"\b(Float|Int|UInt|Bool|Num|Shaped|Real|Inexact|Integer)\d*\[")


def check(function: F) -> F:
    """beartype where a shape is written; all other annotations are mypy's business."""
    hints = getattr(function, "__annotations__", {}).values()
    if any(SHAPE.search(hint if isinstance(hint, str) else repr(hint)) for hint in hints):
        return beartype(function)
    return function
