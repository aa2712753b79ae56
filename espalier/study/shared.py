"""A study that workers on many machines write, each for itself: no sweep holds it.

Which trial a worker gets is decided elsewhere, by a storage that all of them reach. Here it is run,
and the record kept, of which each worker holds the lock for as long as one line takes.
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

from espalier import lock
from espalier.errors import UserError
from espalier.study.book import COMPLETE, FAILED, RECORD, STARTED, Book, told
from espalier.study.launch.errand import LOST, STOPPED, Errand, Report
from espalier.study.orders import Command, train
from espalier.study.plan import Trial
from espalier.study.worker import Worker

LOOK = 0.1  # seconds between two tries to get at the record
PATIENCE = 60.0  # seconds until its holder is thought to be gone with its machine
ELSEWHERE = 1.0  # seconds between two looks at a run that another worker has


class Shared(Book):
    """A book with many writers."""

    def note(self, state: str, trial: Trial, **fields: Any) -> None:
        """Append one record; of a trial that has a COMPLETE already, no other one."""
        with self._turn():
            file = self.place / RECORD
            if file.is_file() and not file.read_bytes().endswith(b"\n"):
                self._settle([])  # a writer was killed in the middle of its line
            if state != COMPLETE or trial.key not in self._complete():
                super().note(state, trial, **fields)

    def _complete(self) -> set[str]:
        return {record["key"] for record in self.records() if record["state"] == COMPLETE}

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        (self.place / "trials").mkdir(parents=True, exist_ok=True)
        (self.place / "runs").mkdir(exist_ok=True)
        limit = time.monotonic() + PATIENCE
        while True:
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(lock.hold(self.place / "lock"))
                except UserError:
                    if time.monotonic() > limit:
                        raise
                else:
                    yield
                    return
            time.sleep(LOOK)


class Hand:
    """One worker: trials one after the other, each to its end."""

    def __init__(self, book: Shared, worker: Worker, command: Command = train):
        self.book, self.worker, self.command = book, worker, command
        self.errand: Errand | None = None
        self.stopped = False

    def run(self, trial: Trial, lease: str) -> Report:
        """Train, or go on with, or wait for whoever trains it under another lease.

        Of workers with one lease on different machines only the last lives: see `espalier.lock`.
        """
        if self.book.outcome(trial) is not None:
            self._note(trial, Report(0))
            return Report(0)
        self.book.note(STARTED, trial, **self.worker.named())
        study, threads = str(self.book.place.absolute()), self.worker.threads
        orders = self.command(trial, self.book, self.worker.device)
        errand = self.errand = Errand(study, os.getcwd(), trial.key, orders, lease, threads)
        while True:
            if self.stopped:
                return Report(STOPPED)
            report = errand(platform.node())
            if report.code != LOST:
                break
            time.sleep(ELSEWHERE)
        self._note(trial, report)
        return report

    def rest(self) -> None:
        """Have what runs save and end, and nothing more begin; may be called by a signal."""
        self.stopped = True
        if self.errand is not None:
            self.errand.rest()

    def _note(self, trial: Trial, report: Report) -> None:
        mine = self.worker.named()
        if report.code == 0:
            self.worker.trust()
            self.book.note(COMPLETE, trial, **mine, **told(self.book.outcome(trial) or {}))
        elif report.code != STOPPED:
            self.book.note(FAILED, trial, **mine, code=report.code, error=report.error)
            self.worker.aside = self.worker.suspect(trial, report.code, report.error)
