"""A place for one trial at a time, and how one process of it begins and ends."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espalier.durable import read_json
from espalier.errors import UserError
from espalier.study.book import Book
from espalier.study.plan import Trial

ALIKE = 3  # trials in a row that fail in one way before their worker is set aside
TAIL = 400  # characters of what a trial said, where it did not say what was wrong
WRONG_INPUT = 2  # the exit code of what is wrong on every worker alike

Command = Callable[[Trial, Book, str], Sequence[str]]
"""The words that begin a trial, or go on with it, on a device."""


@dataclass
class Worker:
    """One process at a time, on a device, with some of the machine's threads."""

    number: int
    device: str = "cpu"
    threads: int = 1
    aside: bool = False
    cause: str = ""
    alike: list[Trial] = field(default_factory=list)
    """trials that failed here one after the other, all for `cause`"""

    def surroundings(self) -> dict[str, str]:
        number = str(self.threads)
        mine = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), number)
        return {**os.environ, **mine, "PYTHONUTF8": "1"}

    def suspect(self, trial: Trial, code: int, error: str) -> bool:
        """Take in a failure; whether it is this worker that fails rather than its trials."""
        if code == WRONG_INPUT:
            self.trust()
            return False
        cause = alike(error)
        if cause != self.cause:
            self.cause, self.alike = cause, []
        self.alike.append(trial)
        return len(self.alike) >= ALIKE

    def trust(self) -> None:
        self.cause, self.alike = "", []


@dataclass
class Attempt:
    """A trial under way on a worker."""

    trial: Trial
    worker: Worker
    process: subprocess.Popen[bytes]
    began: float
    step: int
    """of the checkpoint that it went on from; -1: from the beginning"""

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def start(trial: Trial, worker: Worker, book: Book, command: Command) -> Attempt:
    """Begin a process of its own session, so that ^C reaches the sweep alone."""
    words = command(trial, book, worker.device)
    with book.beside(trial, "json").open("wb") as out, book.beside(trial, "log").open("ab") as said:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=said,
            env=worker.surroundings(),
            start_new_session=True,
        )
    return Attempt(trial, worker, process, time.monotonic(), book.step(trial))


def ended_from_outside(code: int) -> bool:
    """Killed, or asked to end and saved: nothing that the trial itself has done."""
    return code < 0 or code > 128


def error_of(attempt: Attempt, book: Book) -> str:
    """What a failed trial said was wrong, or else the end of what it said."""
    with contextlib.suppress(UserError, AttributeError):
        told = read_json(book.beside(attempt.trial, "json")).get("error")
        if told:
            return str(told)
    return tail(book.beside(attempt.trial, "log")) or f"exit code {attempt.code}"


def tail(file: Path) -> str:
    text = file.read_bytes()[-TAIL:].decode("utf-8", errors="replace")
    return " / ".join(text.split("\n")).strip(" /")


def alike(error: str) -> str:
    """An error without what differs from trial to trial: numbers, hashes, places."""
    return re.sub(r"\S*[/\\]\S*|\b[0-9a-f]{12}\S*|\d+(?:\.\d+)?", "*", error)


def end(attempts: Mapping[str, Attempt], grace: float) -> None:
    """Ask every process to save and end; after `grace` seconds, kill what is left."""
    for number, seconds in (("SIGTERM", grace), ("SIGKILL", 5.0)):
        left = [one.process for one in attempts.values() if one.code is None]
        for process in left:
            _signal(process, number)
        limit = time.monotonic() + seconds
        for process in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, limit - time.monotonic()))


def _signal(process: subprocess.Popen[bytes], number: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, getattr(signal, number))
        else:
            process.kill()
