"""The workers of this machine, each with a process at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from espalier.study import process
from espalier.study.book import Book
from espalier.study.launch import GRACE, Attempt
from espalier.study.orders import Command, train
from espalier.study.plan import Trial
from espalier.study.process import Process, error_of, spawn, surroundings
from espalier.study.worker import Worker

LOOK = 0.02  # seconds between two looks at the processes


@dataclass
class Running:
    """A trial that has a process."""

    trial: Trial
    worker: Worker
    book: Book
    process: Process | None = None
    seen: bool = field(default=False, repr=False)

    @property
    def code(self) -> int | None:
        return None if self.process is None else self.process.poll()

    @property
    def error(self) -> str:
        return error_of(self.trial, self.book, self.code or 0)

    def begins(self) -> list[Worker]:
        fresh, self.seen = not self.seen, True
        return [self.worker] if fresh else []


class Local:
    """`needs` is the memory of each trial by key, `room` what each device has, in bytes."""

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

    @property
    def most(self) -> int:
        return len(self.workers)

    @property
    def spent(self) -> bool:
        return all(worker.aside for worker in self.workers)

    def places(self, running: Mapping[str, Attempt]) -> list[Worker]:
        busy = {one.worker.number for one in running.values()}
        return [one for one in self.workers if not one.aside and one.number not in busy]

    def fits(self, trial: Trial, worker: Worker, running: Mapping[str, Attempt]) -> bool:
        """One alone on its device may always try."""
        there = [key for key, one in running.items() if one.worker.device == worker.device]
        if not there or worker.device not in self.room:
            return True
        used = sum(self.needs.get(key, 0) for key in [*there, trial.key])
        return used <= self.room[worker.device]

    def attempt(self, trial: Trial, worker: Worker) -> Running:
        return Running(trial, worker, self.book)

    def start(self, attempts: list[Attempt]) -> None:
        for one in attempts:
            assert isinstance(one, Running)
            orders = self.command(one.trial, self.book, one.worker.device)
            around = surroundings(one.worker.threads)
            one.process = spawn(one.trial, self.book, orders, around)

    def end(self, attempts: Iterable[Attempt]) -> None:
        ours = [one.process for one in attempts if isinstance(one, Running) and one.process]
        process.end(ours, GRACE)

    def pause(self) -> float:
        return LOOK
