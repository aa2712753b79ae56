"""Which results are beaten by none: the Pareto front of objectives that are to be low."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Nowhere higher, and lower somewhere."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(points: Mapping[K, Sequence[float]]) -> list[K]:
    """The points that no other dominates, by their first objective, equal ones once."""
    ordered = sorted(points, key=lambda key: tuple(points[key]))
    kept: list[K] = []
    for key in ordered:  # nothing later in this order dominates what came before
        if not any(
            dominates(points[other], points[key]) or tuple(points[other]) == tuple(points[key])
            for other in kept
        ):
            kept.append(key)
    return kept
