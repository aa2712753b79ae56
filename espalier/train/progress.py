"""How far a run has come, and whether it should end here."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from espalier.train.events import Reason
from espalier.train.settings import StopConfig


@dataclass
class Progress:
    """Saved with every checkpoint; `sample` is the place in the order of the data."""

    step: int = 0
    sample: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float | None = None
    val_loss: float | None = None
    """of this very step, if it was evaluated"""
    best_val_loss: float | None = None
    best_step: int | None = None
    stale: int = 0
    """evaluations since the best one"""
    settled: bool = False
    """everything due at this step, such as its evaluation, has been done"""

    @classmethod
    def of(cls, state: dict[str, Any]) -> Self:
        return cls(**{field.name: state[field.name] for field in fields(cls)})

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def advance(self, rows: int, tokens: int) -> None:
        """One update was made."""
        self.step += 1
        self.sample += rows
        self.tokens += tokens
        self.train_loss = self.val_loss = None
        self.settled = False

    def judge(self, train_loss: float, val_loss: float) -> bool:
        """Take in an evaluation; whether it is the best so far."""
        self.train_loss, self.val_loss = train_loss, val_loss
        best = self.best_val_loss is None or val_loss < self.best_val_loss
        if best:
            self.best_val_loss, self.best_step = val_loss, self.step
        self.stale = 0 if best else self.stale + 1
        return best

    def spent(self, horizon: int, stop: StopConfig) -> Reason | None:
        """Why training ends at this step, whatever an evaluation says."""
        if self.step >= horizon:
            return "horizon"
        if stop.seconds is not None and self.seconds >= stop.seconds:
            return "seconds"
        if stop.tokens is not None and self.tokens >= stop.tokens:
            return "tokens"
        return None

    def satisfied(self, stop: StopConfig) -> Reason | None:
        """Why an evaluation just made ends it."""
        if self.val_loss is None:
            return None
        if stop.val_loss is not None and self.val_loss <= stop.val_loss:
            return "val_loss"
        if stop.patience is not None and self.stale >= stop.patience:
            return "patience"
        return None
