"""What the queues of clusters have in common: errands given away, and looked for now and then."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from espalier.study.book import Book
from espalier.study.launch import NOWHERE, Attempt
from espalier.study.launch.errand import MACHINE, Errand, Report, tries
from espalier.study.orders import Command, train
from espalier.study.worker import Worker

if TYPE_CHECKING:
    from espalier.study.plan import Trial

LOOK = 0.2  # seconds between two looks at the queue
REREAD = 1.0  # and at what an errand has noted in the study
SEEN = 60.0  # seconds until a shared file system shows what another machine has written


@dataclass
class Request:
    """What every trial of a sweep asks of a cluster."""

    device: str = "auto"
    threads: int = 1
    most: int = 1
    """trials at a time"""
    memory: Mapping[str, int] = field(default_factory=dict)
    """bytes, by the trial's key"""


class Sent:
    """A trial in the queue, or out of it."""

    def __init__(self, trial: Trial, worker: Worker, queue: Queue):
        self.trial, self.worker, self.queue = trial, worker, queue
        self.handle: Any = None
        self.error = ""
        self.known = len(tries(queue.book, trial))
        self.looked = 0.0
        self.reported: Report | None = None
        self.since = 0.0

    def begins(self) -> list[Worker]:
        if time.monotonic() < self.looked + REREAD and self.reported is None:
            return []
        self.looked = time.monotonic()
        fresh = tries(self.queue.book, self.trial)[self.known :]
        self.known += len(fresh)
        found = [self.queue.worker(one.place, one.host) for one in fresh]
        self.worker = found[-1] if found else self.worker
        return found

    @property
    def code(self) -> int | None:
        if self.reported is None:
            self.reported, self.since = self.queue.report(self), time.monotonic()
        if self.reported is None:
            return None
        self.error = self.reported.error
        if self.reported.code == 0 and self.queue.book.outcome(self.trial) is None:
            if time.monotonic() < self.since + SEEN:
                return None
            self.error = (
                "its results are not here: every machine needs the study on one file system"
            )
            return MACHINE
        return self.reported.code


class Queue(ABC):
    """An engine that decides where and when a trial runs, and runs it again when its machine dies.

    Here a worker is a machine, and becomes known by a trial that begins on it.
    """

    def __init__(self, book: Book, request: Request, command: Command = train):
        self.book, self.request, self.command = book, request, command
        self.known: dict[str, Worker] = {}
        self.room: dict[str, int] = {}
        self.depth = request.most  # trials that the engine is given at a time

    @property
    def most(self) -> int:
        return self.request.most

    def worker(self, place: str, host: str) -> Worker:
        """By the engine's name of a machine."""
        fresh = Worker(len(self.known), self.request.device, self.request.threads, host)
        return self.known.setdefault(place, fresh)

    def avoided(self) -> list[str]:
        """The engine's names of the machines that get no more trials."""
        return [place for place, worker in self.known.items() if worker.aside]

    def places(self, running: Mapping[str, Attempt]) -> list[Worker]:
        free = range(self.depth - len(running))
        return [Worker(NOWHERE, self.request.device, self.request.threads) for _ in free]

    def fits(self, trial: Trial, worker: Worker, running: Mapping[str, Attempt]) -> bool:
        return True  # the engine waits until it does

    def attempt(self, trial: Trial, worker: Worker) -> Sent:
        return Sent(trial, worker, self)

    def errand(self, trial: Trial) -> Errand:
        orders = self.command(trial, self.book, self.request.device)
        study, threads = str(self.book.place), self.request.threads
        return Errand(study, os.getcwd(), trial.key, orders, self.book.lease, threads)

    def pause(self) -> float:
        return LOOK

    @property
    @abstractmethod
    def spent(self) -> bool: ...

    @abstractmethod
    def start(self, attempts: list[Attempt]) -> None: ...

    @abstractmethod
    def end(self, attempts: Iterable[Attempt]) -> None: ...

    @abstractmethod
    def report(self, sent: Sent) -> Report | None:
        """What became of it; None as long as it waits or runs."""
