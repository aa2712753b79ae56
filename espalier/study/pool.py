"""Trials on workers, each as often as it takes; the record of what happened is written here."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from espalier.study.book import COMPLETE, FAILED, INTERRUPTED, KILLED, STARTED, Book, told
from espalier.study.launch import NOWHERE, Attempt, Launcher
from espalier.study.plan import Trial
from espalier.study.process import STUCK, ended_from_outside, fruitless, killed
from espalier.study.worker import Worker


@dataclass(frozen=True)
class Event:
    """A trial has changed its state; `summary` is of a complete one, `error` of a failed one."""

    state: str
    trial: Trial
    worker: int
    summary: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class SetAside:
    """A worker gets no more trials; those that failed on it for `cause` go to others."""

    worker: int
    cause: str
    again: int


class Pool:
    """Runs trials where `launcher` has room for them."""

    def __init__(self, book: Book, launcher: Launcher):
        self.book, self.launcher = book, launcher
        self.waiting: list[Trial] = []
        self.running: dict[str, Attempt] = {}
        self.steps: dict[str, list[int]] = {}  # of the checkpoints that attempts went on from
        self.moved: set[str] = set()  # trials that have been given to another worker once

    def run(
        self, trials: Sequence[Trial], interrupted: Callable[[], bool] = lambda: False
    ) -> Iterator[Event | SetAside]:
        """Each trial to its end, or to its failure. The study is held by the caller.

        When `interrupted()` turns true, what runs is saved and this ends. What is left in `waiting`
        was not run, because every worker was set aside.
        """
        self.waiting = [trial for trial in trials if self.book.outcome(trial) is None]
        try:
            while self.waiting or self.running:
                if interrupted():
                    self.launcher.end(self.running.values())
                    yield from self._collect()
                    return
                yield from self._collect()
                if not self.launcher.spent:
                    yield from self._fill()
                elif not self.running:
                    return
                time.sleep(self.launcher.pause())
        finally:
            self.launcher.end(self.running.values())

    # beginning

    def _fill(self) -> Iterator[Event]:
        fresh: list[Attempt] = []
        for worker in self.launcher.places(self.running):
            trial = next((t for t in self.waiting if self._may(t, worker)), None)
            if trial is None:
                continue
            self.waiting.remove(trial)
            if self.book.outcome(trial) is not None:  # by a process that outlived its sweep
                yield self._complete(trial, worker)
                continue
            fresh.append(self.launcher.attempt(trial, worker))
            self.running[trial.key] = fresh[-1]
            self.steps.setdefault(trial.key, []).append(self.book.step(trial))
        self.launcher.start(fresh)
        for attempt in fresh:
            yield from self._begun(attempt)

    def _may(self, trial: Trial, worker: Worker) -> bool:
        return not self.book.owned(trial) and self.launcher.fits(trial, worker, self.running)

    def _begun(self, attempt: Attempt) -> Iterator[Event]:
        """What is new of the beginnings of a trial; between two of them it was killed."""
        former = attempt.worker
        for worker in attempt.begins():
            if former.host:
                yield self._noted(KILLED, attempt.trial, former)
            yield self._noted(STARTED, attempt.trial, worker)
            former = worker

    # ending

    def _collect(self) -> Iterator[Event | SetAside]:
        for key, attempt in list(self.running.items()):
            if key not in self.running:  # called back meanwhile
                continue
            code = attempt.code
            yield from self._begun(attempt)
            if code is not None:
                del self.running[key]
                yield from self._ended(attempt, code)

    def _ended(self, attempt: Attempt, code: int) -> Iterator[Event | SetAside]:
        trial, worker = attempt.trial, attempt.worker
        if self.book.outcome(trial) is not None:
            worker.trust()
            yield self._complete(trial, worker)
        elif self.book.owned(trial):  # another process has it: wait for that one
            self.waiting.append(trial)
        elif ended_from_outside(code):
            yield from self._killed(attempt, code)
        else:
            yield from self._failed(attempt, code)

    def _complete(self, trial: Trial, worker: Worker) -> Event:
        summary = self.book.outcome(trial) or {}
        self.book.note(COMPLETE, trial, **worker.named(), **told(summary))
        return Event(COMPLETE, trial, worker.number, summary)

    def _noted(self, state: str, trial: Trial, worker: Worker, **fields: Any) -> Event:
        self.book.note(state, trial, **worker.named(), **fields)
        return Event(state, trial, worker.number, error=fields.get("error", ""))

    def _killed(self, attempt: Attempt, code: int) -> Iterator[Event]:
        """From its checkpoint again, unless it is killed again and again at one place."""
        trial, worker, begun = attempt.trial, attempt.worker, attempt.worker.number != NOWHERE
        times = fruitless(self.steps[trial.key], self.book.step(trial))
        if times >= STUCK:
            error = killed(times, code) if begun else attempt.error
            yield self._noted(FAILED, trial, worker, code=code, error=error)
            return
        self.waiting.append(trial)
        if begun:
            yield self._noted(INTERRUPTED if code > 0 else KILLED, trial, worker, code=code)

    def _failed(self, attempt: Attempt, code: int) -> Iterator[Event | SetAside]:
        trial, worker, error = attempt.trial, attempt.worker, attempt.error
        yield self._noted(FAILED, trial, worker, code=code, error=error)
        if worker.suspect(trial, code, error):
            worker.aside = True
            again = [one for one in worker.alike if one.key not in self.moved]
            self.moved |= {one.key for one in again}
            self.waiting += again
            self._recall()
            yield SetAside(worker.number, error, len(again))

    def _recall(self) -> None:
        """What an engine still keeps in its queue might come to a worker that was set aside."""
        queued = [one for one in self.running.values() if one.worker.number == NOWHERE]
        self.launcher.end(queued)
        for one in queued:
            del self.running[one.trial.key]
            self.waiting.append(one.trial)
