"""Saves a run under way: never weights that are not finite, never at the cost of the run."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.durable import replacing, sync, write_json
from espalier.errors import MachineError
from espalier.pretrained import deepseek_ocr
from espalier.run import CHAT, MODEL, OPTIMIZER, TOKENIZER, Run
from espalier.train import checkpoint
from espalier.train.ema import Weights
from espalier.train.parallel import pieces
from espalier.train.progress import Progress
from espalier.train.resume import randomness
from espalier.train.steps import DivergedError, Stepper

PATIENCE = 3  # saves in a row that the disk may refuse


def words(run: Run, corpus: Mapping[str, Any]) -> None:
    """Give a run the tokenizer of its corpus, and the template of its conversations."""
    kept = run.path / TOKENIZER
    if corpus.get("tokenizer") is not None and not kept.exists():
        write_json(kept, corpus["tokenizer"])
    if corpus.get("chat") is not None:
        write_json(run.path / CHAT, corpus["chat"])


class Saver:
    """Commits checkpoints of one trainer into one run; `fixed` joins the state of each."""

    def __init__(
        self,
        run: Run,
        stepper: Stepper,
        keep: int,
        fixed: Mapping[str, Any],
        weights: Weights,
    ):
        self.run, self.stepper, self.keep, self.fixed = run, stepper, keep, fixed
        self.weights = weights
        self.model, self.spread = stepper.objective.model, stepper.spread
        self.ranks = stepper.spread.ranks
        self.refused = 0

    def save(self, progress: Progress, *, last: bool) -> Path | str:
        """The checkpoint, or why the disk refused it and training may go on.

        Raises MachineError for the last save and for a third refusal in a row, and DivergedError
        when a weight is not finite.
        """
        (bad,) = self.ranks.most(not checkpoint.finite(self.spread.held().values()))
        if bad:
            raise DivergedError(
                f"step {progress.step}: a weight is not finite. Nothing was saved over the last "
                "good checkpoint; try a lower train.learning_rate"
            )
        state, size = self._state(progress), self._size()
        if not self.ranks.leads:
            return self._follow(progress.step)
        self.begun = False
        found = self._commit(state, size, last=last)
        if self.spread.in_pieces and not self.begun:
            self.ranks.tell("")  # no room: nobody is to write
        self.ranks.tell("" if isinstance(found, Path) else found)
        return found

    def _commit(self, state: Mapping[str, Any], size: int, *, last: bool) -> Path | str:
        try:
            place = self.run.commit(state["step"], self._write, state, keep=self.keep, size=size)
        except MachineError as error:
            if last:
                raise
            return self.refuse(str(error))
        self.refused = 0
        return place

    def log(self, record: Mapping[str, Any]) -> str:
        """Append to metrics.jsonl; what to say of a disk that refuses."""
        try:
            self.run.log(record)
        except OSError as error:
            file = self.run.path / "metrics.jsonl"
            return self.refuse(f"cannot write {file}: {error.strerror}")
        return ""

    def refuse(self, why: str) -> str:
        """What to say of a disk that refuses; MachineError for the third time in a row."""
        self.refused += 1
        if self.refused >= PATIENCE:
            raise MachineError(why)
        return f"{why}; training goes on"

    def _write(self, folder: Path) -> None:
        if self.spread.in_pieces:
            self.begun = True
            self.ranks.tell(str(folder))
            self._write_pieces(folder)
            for name in (MODEL, OPTIMIZER):
                pieces.write_index(folder / name, self.ranks.count)
            return
        with self.weights.shown():
            checkpoint.writer(self.model, self.stepper.optimizer)(folder)
            self.weights.save(folder)

    def _follow(self, step: int) -> Path | str:
        """What another rank than the first does for a checkpoint."""
        if self.spread.in_pieces and (folder := self.ranks.tell("")):
            with contextlib.suppress(OSError):  # the first rank hears of it, and says so
                self._write_pieces(Path(folder))
        return self.ranks.tell("") or self.run.checkpoint(step)

    def _write_pieces(self, folder: Path) -> None:
        """This rank's part of weights and moments; OSError where any rank could not write its."""
        rank, problem = self.ranks.rank, ""
        try:
            moments = self.stepper.optimizer.state()
            for name, held in ((MODEL, self.spread.held()), (OPTIMIZER, moments)):
                file = folder / pieces.name_of(folder / name, rank, self.ranks.count)
                checkpoint.save(held, file)
                sync(file)
        except OSError as error:
            problem = f"rank {rank}: {error.strerror or error}"
        if problems := [text for text in self.ranks.texts(problem) if text]:
            raise OSError(problems[0])

    def _size(self) -> int:
        optimizer = self.stepper.optimizer
        if not self.spread.in_pieces:
            return checkpoint.size(self.model, optimizer) + self.weights.size
        held = [*self.spread.held().values(), *optimizer.state().values()]
        return self.ranks.total(sum(t.numel() * t.element_size() for t in held))

    def encoder(self) -> None:
        """Write what reads images, if anything does, to a file of its own in the run."""
        front = self.model.trunk.front
        if front is None or not self.ranks.leads or self.spread.in_pieces:
            return
        file = self.run.path / deepseek_ocr.ENCODER
        try:
            with self.weights.shown(), replacing(file) as working:
                checkpoint.save(deepseek_ocr.to_theirs(front), working)
        except OSError as error:
            raise MachineError(f"cannot write {file}: {error}") from None

    def _state(self, progress: Progress) -> dict[str, Any]:
        return {
            **progress.state(),
            "skipped": int(self.stepper.guard.skipped.item()),
            "scale": self.stepper.scale.state(),
            **({"noise": noise.state()} if (noise := self.stepper.noise) else {}),
            **self.fixed,
            **randomness(self.ranks),
        }
