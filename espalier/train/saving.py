"""Saves a run under way: never weights that are not finite, never at the cost of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.errors import MachineError
from espalier.run import Run
from espalier.train import checkpoint
from espalier.train.progress import Progress
from espalier.train.steps import DivergedError, Stepper

PATIENCE = 3  # saves in a row that the disk may refuse


class Saver:
    """Commits checkpoints of one trainer into one run; `fixed` joins the state of each."""

    def __init__(self, run: Run, stepper: Stepper, keep: int, fixed: Mapping[str, Any]):
        self.run, self.stepper, self.keep, self.fixed = run, stepper, keep, fixed
        self.model = stepper.objective.model
        self.refused = 0

    def save(self, progress: Progress, *, last: bool) -> Path | str:
        """The checkpoint, or why the disk refused it and training may go on.

        Raises MachineError for the last save and for a third refusal in a row, and DivergedError
        when a weight is not finite.
        """
        if not checkpoint.finite(checkpoint.tensors(self.model).values()):
            raise DivergedError(
                f"step {progress.step}: a weight is not finite. Nothing was saved over the last "
                "good checkpoint; try a lower train.learning_rate"
            )
        optimizer = self.stepper.optimizer
        try:
            place = self.run.commit(
                progress.step,
                checkpoint.writer(self.model, optimizer),
                self._state(progress),
                keep=self.keep,
                size=checkpoint.size(self.model, optimizer),
            )
        except MachineError as error:
            self.refused += 1
            if last or self.refused >= PATIENCE:
                raise
            return f"{error}; training goes on"
        self.refused = 0
        return place

    def _state(self, progress: Progress) -> dict[str, Any]:
        return {
            **progress.state(),
            "skipped": int(self.stepper.guard.skipped.item()),
            "scale": self.stepper.scale.state(),
            **({"noise": noise.state()} if (noise := self.stepper.noise) else {}),
            **self.fixed,
            "random": checkpoint.randomness(),
        }
