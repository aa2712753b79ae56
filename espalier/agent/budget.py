"""What a study may spend, and what it has spent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from espalier.errors import UserError
from espalier.units import count, duration

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Budget:
    """Upper bounds; None: as much as it takes."""

    seconds: float | None = None  # of the study's own clock, pauses between sessions left out
    tokens: int | None = None  # trained on
    runs: int | None = None  # begun
    model_tokens: int | None = None  # read and written by the language model

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value <= 0:
                raise UserError(f"a budget of {value} {name.replace('_', ' ')} buys nothing")


@dataclass
class Spent:
    """What is gone; a line of the log has a copy."""

    seconds: float = 0.0
    tokens: int = 0
    runs: int = 0
    model_tokens: int = 0
    experiments: int = 0  # proposed, whatever became of them

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        return cls(**{one.name: record[one.name] for one in fields(cls)})

    def left(self, budget: Budget) -> dict[str, float | None]:
        """What remains of each bound; None where there is none."""
        return {
            name: None if most is None else max(0, most - getattr(self, name))
            for name, most in asdict(budget).items()
        }

    def empty(self, budget: Budget) -> list[str]:
        """The bounds that are used up."""
        left = self.left(budget)
        return [name.replace("_", " ") for name, rest in left.items() if rest == 0]

    def line(self, budget: Budget) -> str:
        """What is spent, in words: `2 min 05 s of 30 min 00 s, 1.2M tokens, …`."""

        def pair(used: str, most: str | None, unit: str) -> str:
            return f"{used}{unit}" if most is None else f"{used} of {most}{unit}"

        most = {k: None if v is None else count(v) for k, v in asdict(budget).items()}
        clock = None if budget.seconds is None else duration(budget.seconds)
        return ", ".join(
            [
                pair(duration(self.seconds), clock, ""),
                pair(str(self.runs), most["runs"], " runs"),
                pair(count(self.tokens), most["tokens"], " tokens trained on"),
                pair(count(self.model_tokens), most["model_tokens"], " tokens of the model"),
            ]
        )


def seconds(text: str) -> float:
    """`30min`, `90s`, `1h30min`, `2 h` or a number of seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.lower())
    joined = "".join(number + unit for number, unit in parts)
    units = [unit for _, unit in parts]
    plain = units == [""]
    if joined != re.sub(r"\s", "", text.lower()) or not (plain or set(units) <= _UNITS.keys()):
        raise UserError(f"'{text}' is no time: write 30min, 90s or 1h30min")
    found = sum(float(number) * _UNITS.get(unit, 1) for number, unit in parts)
    if not parts or found <= 0:
        raise UserError(f"'{text}' is no time: write 30min, 90s or 1h30min")
    return found
