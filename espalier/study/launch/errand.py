"""A trial as another machine runs it: as often as it takes, until there is nothing left to do.

What runs there imports no torch: the trial is a process of its own, which ends when this one does.
Each time that it begins is a line of trials/KEY.tries, so that whoever goes on elsewhere knows how
often it was killed, and the sweep where it is.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from espalier.lock import LEASE
from espalier.study.book import Book, Keyed
from espalier.study.launch import GRACE
from espalier.study.orders import Orders
from espalier.study.process import (
    STUCK,
    Process,
    end,
    ended_from_outside,
    error_of,
    fruitless,
    killed,
    spawn,
    surroundings,
)

LOOK = 0.1  # seconds between two looks at the process
OWNED = 5.0  # seconds that a former owner of the run may take to be gone
BUG, MACHINE = 1, 3  # exit codes
LOST, STOPPED = -9, 143  # and those after which it begins again


class Report(NamedTuple):
    """How an errand ended: 0, and there are results; or an exit code and what was said."""

    code: int
    error: str = ""


class Try(NamedTuple):
    """A beginning."""

    step: int
    """of the checkpoint that it went on from; -1: from the beginning"""
    place: str
    """the engine's name for the machine"""
    host: str
    pid: int
    """of the errand's process there"""


@dataclass
class Errand:
    """A trial by name, with all that its process needs; paths are the same on every machine."""

    study: str
    folder: str
    """what relative paths in its configuration start from"""
    key: str
    orders: Orders
    lease: str
    threads: int
    process: Process | None = None
    stopped: bool = False

    def __call__(self, place: str) -> Report:
        """Run it on a machine that the engine calls `place`."""
        book = Book(Path(self.study), self.lease)
        for folder in (self.folder, self.study):
            if not Path(folder).is_dir():
                said = f"{folder} is not on {platform.node()}"
                return Report(MACHINE, f"{said}: every machine needs it, at the same path")
        os.chdir(self.folder)
        code = LOST
        while book.outcome(self) is None:
            if self.stopped:
                return Report(STOPPED)
            if not self._free(book):
                return Report(LOST)
            begins = [one.step for one in tries(book, self)]
            if (times := fruitless(begins, book.step(self))) >= STUCK:
                return Report(MACHINE, killed(times, code))
            code = self._once(book, place)
            failed = book.outcome(self) is None and not ended_from_outside(code)
            if failed and not book.owned(self):
                return Report(code or BUG, error_of(self, book, code))
        return Report(0)

    def rest(self) -> None:
        """Have the process save and end; another does not begin."""
        self.stopped = True
        if self.process is not None:
            end([self.process], GRACE)

    def _free(self, book: Book) -> bool:
        """Whether nobody writes the run: a process that was killed just now still ends."""
        limit = time.monotonic() + OWNED
        while book.owned(self):
            if time.monotonic() > limit:
                return False
            time.sleep(LOOK)
        return True

    def _once(self, book: Book, place: str) -> int:
        one = Try(book.step(self), place, platform.node(), os.getpid())
        line = json.dumps({"lease": self.lease, **one._asdict()}) + "\n"
        with book.beside(self, "tries").open("ab") as stream:
            stream.write(line.encode("utf-8"))
        around = surroundings(self.threads, **{LEASE: self.lease})
        tether = ("-m", "espalier.study.tether", str(os.getpid()))
        process = self.process = spawn(self, book, self.orders, around, tether)
        try:
            while (code := process.poll()) is None:
                time.sleep(LOOK)
        except BaseException:  # by the engine, at any line
            self.rest()
            raise
        return code


def tries(book: Book, trial: Keyed) -> list[Try]:
    """Every beginning under the book's lease; a line torn by a crash is left out."""
    file = book.beside(trial, "tries")
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    told = [json.loads(line) for line in lines]
    return [
        Try(one["step"], one["place"], one["host"], one["pid"])
        for one in told
        if one["lease"] == book.lease
    ]
