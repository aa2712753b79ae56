"""What a diagnosis is made of. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cause:
    """One thing that takes time: what it is, the number that shows it, and what to do."""

    name: str
    evidence: str
    remedy: str
    gain: float | None = None
    """how many times faster it would be, where that was measured"""


@dataclass(frozen=True)
class Diagnosis:
    """`facts` tell of the run's speed, `shares` where a step's time goes (measured)."""

    run: str
    facts: tuple[str, ...]
    shares: dict[str, float]
    causes: tuple[Cause, ...]

    def tree(self) -> dict[str, Any]:
        return asdict(self)


def faster(was: float, now: float) -> str:
    """How much faster, in words: `1.6 times faster`."""
    return f"{was / now:.1f} times faster"
