"""One quantity's values as places between 0 and 1: evenly, by ratio, or one name after another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from espalier.units import count

FEW = 4  # different numbers that are all labelled
RATIO = 10.0  # the largest over the smallest, from which ratios are what counts


@dataclass(frozen=True)
class Axis:
    """From `low` (0) to `high` (1), or `names` in their order where the values are no numbers."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    names: tuple[str, ...] = ()
    marks: tuple[float, ...] = ()
    """the different values, where they are few"""

    def place(self, value: Any) -> float | None:
        """None for what has no place: a number that is not finite, a name nobody gave."""
        if self.names:
            text = words(value)
            return self._name(self.names.index(text)) if text in self.names else None
        return self._number(float(value)) if is_number(value) else None

    def _name(self, index: int) -> float:
        return (index + 0.5) / len(self.names)

    def _number(self, value: float) -> float:
        low, high = self.low, self.high
        if high == low:
            return 0.5
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Places and what to write there, in rising order."""
        if self.names:
            step = math.ceil(len(self.names) / max(1, most))
            return [(self._name(i), name) for i, name in enumerate(self.names) if i % step == 0]
        if self.marks and len(self.marks) <= most:
            return [(self._number(mark), brief(mark)) for mark in self.marks]
        if self.log:
            return [(self._number(mark), brief(mark)) for mark in _powers(self.low, self.high)]
        return [(self._number(mark), text) for mark, text in _round(self.low, self.high, most)]


def axis(name: str, values: Iterable[Any]) -> Axis:
    """An axis on which all of `values` have their places, but for numbers that are not finite."""
    given = [value for value in values if not isinstance(value, float) or math.isfinite(value)]
    if not given or not all(is_number(value) for value in given):
        return Axis(name, names=tuple(dict.fromkeys(words(value) for value in given)))
    numbers = sorted({float(value) for value in given})
    low, high = numbers[0], numbers[-1]
    marks = tuple(numbers) if len(numbers) <= FEW else ()
    return Axis(name, low, high, log=low > 0 and high / low >= RATIO, marks=marks)


def is_number(value: Any) -> bool:
    """A finite one; true and false are names."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def words(value: Any) -> str:
    """A setting's value as people write it: rms, true, 0.001, rms(eps=0.1), [1, 2]."""
    if isinstance(value, str):
        return value
    if is_number(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping) and "name" in value:
        fields = ", ".join(f"{key}={words(one)}" for key, one in value.items() if key != "name")
        return f"{value['name']}({fields})" if fields else str(value["name"])
    return json.dumps(value, ensure_ascii=False)


def short(paths: Iterable[str]) -> dict[str, str]:
    """Path -> its last names, as few as tell it from the others."""
    given = list(dict.fromkeys(paths))
    return {path: _short(path, given) for path in given}


def _short(path: str, given: list[str]) -> str:
    names = path.split(".")
    for start in range(len(names) - 1, 0, -1):
        end = ".".join(names[start:])
        if sum(other == end or other.endswith(f".{end}") for other in given) == 1:
            return end
    return path


def brief(value: float) -> str:
    """1e-05, 0.003, 12.5k."""
    return f"{value:g}" if abs(value) < 1e-3 else count(value)


def _powers(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def _round(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if high == low:
        return [(low, brief(low))]
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= raw * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    marks = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(mark, count(mark) if abs(high) >= 1000 else f"{mark:.{digits}f}") for mark in marks]
