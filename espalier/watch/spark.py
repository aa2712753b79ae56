"""A curve as one line of text."""

from collections.abc import Sequence
from itertools import pairwise

LEVELS = "▁▂▃▄▅▆▇█"


def line(values: Sequence[float], width: int) -> str:
    """Means of `width` equal parts, from the lowest to the highest of them; fewer as they are."""
    if not values:
        return ""
    number = min(width, len(values))
    edges = [round(i * len(values) / number) for i in range(number + 1)]
    parts = [values[a:b] for a, b in pairwise(edges)]
    means = [sum(part) / len(part) for part in parts]
    low, span = min(means), max(means) - min(means)
    places = [(mean - low) / span if span else 0.0 for mean in means]
    return "".join(LEVELS[min(len(LEVELS) - 1, int(place * len(LEVELS)))] for place in places)
