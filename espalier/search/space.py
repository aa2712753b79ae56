"""What a search may vary: the values that a path can take, drawn at random or near another."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import Field

from espalier.config import Config, decode
from espalier.errors import ConfigError
from espalier.study.expand import same

TENTHS = 10  # a greedy step where a range of fractions names none: a tenth of it
FACTOR = 2  # and where it is by ratio
LAYERS = "model.layers"
EACH = f"{LAYERS}.*."


class Written(Config):
    """A range as a search file has it."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(default=None, gt=0)
    """a difference; with log a factor"""
    log: bool = False


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them where whole steps lead there.

    `whole`: whole numbers only. `log`: by ratio. Without `step` every number between may be drawn.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def size(self) -> int:
        """How many values the steps make."""
        assert self.step is not None
        length = math.log(self.high / self.low) if self.log else self.high - self.low
        return math.floor(length / (math.log(self.step) if self.log else self.step) + 1e-9) + 1

    def value(self, index: int) -> float:
        """The value `index` steps above the lowest."""
        assert self.step is not None
        found = self.low * self.step**index if self.log else self.low + index * self.step
        return self.tidy(found)

    def tidy(self, value: float) -> float:
        """Without the rounding errors of the arithmetic that led there."""
        return round(value) if self.whole else float(f"{value:.9g}")

    def draw(self, luck: Random) -> float:
        if self.step is not None:
            return self.value(luck.randrange(self.size))
        if not self.log:
            if self.whole:
                return luck.randint(int(self.low), int(self.high))
            return luck.uniform(self.low, self.high)
        margin = 0.5 if self.whole else 0.0  # each whole number has its share of the ratios
        low, high = math.log(self.low - margin), math.log(self.high + margin)
        return self.tidy(min(max(math.exp(luck.uniform(low, high)), self.low), self.high))

    def holds(self, value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or (self.whole and value % 1):
            return False
        if self.step is None or not math.isfinite(self.low):
            return True
        if self.log:
            steps = math.log(value / self.low) / math.log(self.step)
        else:
            steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-6

    @property
    def ends(self) -> list[float]:
        """The lowest and the highest, where there are such."""
        return [self.tidy(end) for end in (self.low, self.high) if math.isfinite(end)]

    def near(self, value: float, reach: int) -> list[float]:
        """Up to `reach` steps above a value, then as many below, as far as the range goes."""
        if self.log:
            factor = self.step or FACTOR
            above = [value * factor**m for m in range(1, reach + 1)]
            below = [value / factor**m for m in range(1, reach + 1)]
        else:
            step = self.step or (1 if self.whole else (self.high - self.low) / TENTHS)
            above = [value + m * step for m in range(1, reach + 1)]
            below = [value - m * step for m in range(1, reach + 1)]
        found = [self.tidy(one) for one in (*above, *below)]
        slack = 1e-9 * max(abs(self.low), abs(self.high)) if self.bounded else 0.0
        inside = [one for one in found if self.low - slack <= one <= self.high + slack]
        return [one for one in dict.fromkeys(inside) if one != value]


@dataclass(frozen=True)
class Choice:
    """One of several values; numbers among themselves have neighbours."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> list[Any]:
        """All of them."""
        return list(self.values)

    @property
    def bounded(self) -> bool:
        return True

    def draw(self, luck: Random) -> Any:
        return luck.choice(self.values)

    def near(self, value: Any, reach: int) -> list[Any]:
        """Of numbers those up to `reach` places away, the larger first; otherwise all others."""
        others = [one for one in self.values if not same(value, one)]
        if not all(type(one) in (int, float) for one in (value, *others)):
            return others
        above = sorted(one for one in others if one > value)[:reach]
        below = sorted((one for one in others if one < value), reverse=True)[:reach]
        return [*above, *below]


Values = Range | Choice
Space = Mapping[str, Values]


def values(path: str, written: Any, where: Callable[[str], str]) -> Values:
    """What a search file gives a path: a list, or {low, high, step, log}.

    `where(key)` is `file:line` of a key below the path. Raises ConfigError.
    """
    at = f"{where('')}: space.{path}"
    if isinstance(written, (list, tuple)):
        if len(written) < 2:
            raise ConfigError(f"{at} has {len(written)} values; write it under set, or give two")
        return Choice(tuple(written))
    if not isinstance(written, dict):
        raise ConfigError(f"{at} takes a list, or low, high, step and log; got {written!r}")
    found = decode(Written, written, f"space.{path}", lambda keys: f"{where('.'.join(keys))}: ")
    low = -math.inf if found.low is None else found.low
    high = math.inf if found.high is None else found.high
    given = [written[key] for key in ("low", "high", "step") if written.get(key) is not None]
    if not low < high:
        raise ConfigError(f"{at}: low must be less than high, got {low} and {high}")
    if found.log and low <= 0:
        raise ConfigError(f"{at}: log needs low above 0")
    if found.log and found.step is not None and found.step <= 1:
        raise ConfigError(f"{at}: with log, step is a factor above 1, got {found.step}")
    whole = all(type(number) is int for number in given)
    if not (math.isfinite(low) and math.isfinite(high)) and found.step is None:
        raise ConfigError(f"{at} needs low and high, or at least a step")
    return Range(low, high, found.step, found.log, whole)


def each_layer(space: Space, layers: int) -> Space:
    """`model.layers.*.` as a path for each of so many layers."""
    found: dict[str, Values] = {}
    for path, one in space.items():
        rest = path.removeprefix(EACH)
        paths = [path] if rest == path else [f"{LAYERS}.{i}.{rest}" for i in range(layers)]
        found |= dict.fromkeys(paths, one)
    return found


def at(tree: Any, path: str) -> Any:
    """What stands at a dotted path of a canonical tree; None where nothing does."""
    for key in path.split("."):
        if isinstance(tree, (list, tuple)):
            tree = tree[int(key)] if key.isdigit() and int(key) < len(tree) else None
        elif isinstance(tree, Mapping):
            tree = tree.get(key)
        else:
            return None
    return tree
