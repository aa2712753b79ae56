"""Trials on the workers of this machine: each a process, each as often as it takes."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from espalier.study.book import COMPLETE, FAILED, INTERRUPTED, KILLED, STARTED, Book, told
from espalier.study.plan import Trial
from espalier.study.worker import (
    Attempt,
    Command,
    Worker,
    end,
    ended_from_outside,
    error_of,
    start,
)

PAUSE = 0.02  # seconds between two looks at the processes
GRACE = 60.0  # for saving, when everything is to end
STUCK = 6  # times that a trial may be killed without having come any further


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


def train(trial: Trial, book: Book, device: str) -> Sequence[str]:
    """The command of a trial: a run begun, or gone on with."""
    place = str(book.run(trial))
    begun = book.begun(trial)
    what = ["--resume", place] if begun else [str(book.recipe(trial)), "--out", place]
    return [sys.executable, "-m", "espalier", "train", *what, "--device", device, "--json"]


class Pool:
    """Runs trials; `needs` is the memory of each by key, `room` what each device has, in bytes."""

    def __init__(
        self,
        book: Book,
        workers: Sequence[Worker],
        command: Command = train,
        needs: Mapping[str, int] | None = None,
        room: Mapping[str, int] | None = None,
    ):
        self.book, self.workers, self.command = book, list(workers), command
        self.needs, self.room = needs or {}, room or {}
        self.waiting: list[Trial] = []
        self.running: dict[str, Attempt] = {}
        self.killed: dict[str, int] = {}
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
                    end(self.running, GRACE)
                    yield from self._collect()
                    return
                yield from self._collect()
                if all(worker.aside for worker in self.workers):
                    return
                yield from self._fill()
                time.sleep(PAUSE)
        finally:
            end(self.running, GRACE)

    # beginning

    def _fill(self) -> Iterator[Event]:
        busy = {one.worker.number for one in self.running.values()}
        for worker in self.workers:
            if worker.aside or worker.number in busy:
                continue
            trial = next((t for t in self.waiting if self._fits(t, worker)), None)
            if trial is None:
                continue
            self.waiting.remove(trial)
            if self.book.outcome(trial) is not None:  # by a process that outlived its sweep
                yield self._complete(trial, worker)
                continue
            self.running[trial.key] = start(trial, worker, self.book, self.command)
            self.book.note(STARTED, trial, worker=worker.number)
            yield Event(STARTED, trial, worker.number)

    def _fits(self, trial: Trial, worker: Worker) -> bool:
        """Whether there is memory for it; one alone on its device may always try."""
        if self.book.owned(trial):
            return False
        there = [key for key, one in self.running.items() if one.worker.device == worker.device]
        if not there or worker.device not in self.room:
            return True
        used = sum(self.needs.get(key, 0) for key in [*there, trial.key])
        return used <= self.room[worker.device]

    # ending

    def _collect(self) -> Iterator[Event | SetAside]:
        for key, attempt in list(self.running.items()):
            if attempt.code is not None:
                del self.running[key]
                yield from self._ended(attempt, attempt.code)

    def _ended(self, attempt: Attempt, code: int) -> Iterator[Event | SetAside]:
        trial, worker = attempt.trial, attempt.worker
        if self.book.outcome(trial) is not None:
            worker.trust()
            yield self._complete(trial, worker)
        elif self.book.owned(trial):  # another process has it: wait for that one
            self.waiting.append(trial)
        elif ended_from_outside(code):
            yield self._killed(attempt, code)
        else:
            yield from self._failed(attempt, code)

    def _complete(self, trial: Trial, worker: Worker) -> Event:
        summary = self.book.outcome(trial) or {}
        self.book.note(COMPLETE, trial, worker=worker.number, **told(summary))
        return Event(COMPLETE, trial, worker.number, summary)

    def _killed(self, attempt: Attempt, code: int) -> Event:
        """From its checkpoint again, unless it is killed again and again at one place."""
        trial, number = attempt.trial, attempt.worker.number
        further = self.book.step(trial) > attempt.step
        times = 1 if further else self.killed.get(trial.key, 0) + 1
        self.killed[trial.key] = times
        if times < STUCK:
            self.waiting.append(trial)
            state = INTERRUPTED if code > 0 else KILLED
            self.book.note(state, trial, worker=number, code=code)
            return Event(state, trial, number)
        error = f"killed {times} times at one place (exit code {code}); is there enough memory?"
        self.book.note(FAILED, trial, worker=number, code=code, error=error)
        return Event(FAILED, trial, number, error=error)

    def _failed(self, attempt: Attempt, code: int) -> Iterator[Event | SetAside]:
        trial, worker = attempt.trial, attempt.worker
        error = error_of(attempt, self.book)
        self.book.note(FAILED, trial, worker=worker.number, code=code, error=error)
        yield Event(FAILED, trial, worker.number, error=error)
        if worker.suspect(trial, code, error):
            worker.aside = True
            again = [one for one in worker.alike if one.key not in self.moved]
            self.moved |= {one.key for one in again}
            self.waiting += again
            yield SetAside(worker.number, error, len(again))
