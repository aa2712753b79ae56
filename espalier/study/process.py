"""A trial as a process: how it begins, what it said, how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from espalier.durable import read_json
from espalier.errors import UserError
from espalier.study.book import Book, Keyed
from espalier.study.orders import Orders

TAIL = 400  # characters of what a trial said, where it did not say what was wrong
STUCK = 6  # times that a trial may be killed without having come any further

Process = subprocess.Popen[bytes]


def spawn(
    trial: Keyed,
    book: Book,
    orders: Orders,
    surroundings: Mapping[str, str],
    through: Sequence[str] = (),
) -> Process:
    """Begin a process of its own session, so that ^C reaches the sweep alone.

    `through` are arguments of a Python that becomes that process.
    """
    words = [sys.executable, *(orders.again if book.begun(trial) else orders.begin)]
    start = [sys.executable, *through, *words] if through else words
    with book.beside(trial, "json").open("wb") as out, book.beside(trial, "log").open("ab") as said:
        return subprocess.Popen(
            start,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=said,
            env=dict(surroundings),
            start_new_session=True,
        )


def surroundings(threads: int, **more: str) -> dict[str, str]:
    """The environment of a process that has so many threads."""
    mine = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **mine, "PYTHONUTF8": "1", **more}


def ended_from_outside(code: int) -> bool:
    """Killed, or asked to end and saved: nothing that the trial itself has done."""
    return code < 0 or code > 128


def fruitless(begins: Sequence[int], step: int) -> int:
    """How many of the last attempts, which began at those steps, have not come beyond `step`."""
    return next((n for n, begin in enumerate(reversed(begins)) if begin < step), len(begins))


def killed(times: int, code: int) -> str:
    """What is said of a trial that is given up."""
    return f"killed {times} times at one place (exit code {code}); is there enough memory?"


def error_of(trial: Keyed, book: Book, code: int) -> str:
    """What a failed trial said was wrong, or else the end of what it said."""
    with contextlib.suppress(UserError, AttributeError):
        told = read_json(book.beside(trial, "json")).get("error")
        if told:
            return str(told)
    return tail(book.beside(trial, "log")) or f"exit code {code}"


def tail(file: Path) -> str:
    text = file.read_bytes()[-TAIL:].decode("utf-8", errors="replace")
    return " / ".join(text.split("\n")).strip(" /")


def end(processes: Iterable[Process], grace: float) -> None:
    """Ask every process to save and end; after `grace` seconds, kill what is left."""
    alive = [process for process in processes if process.poll() is None]
    for number, seconds in (("SIGTERM", grace), ("SIGKILL", 5.0)):
        left = [process for process in alive if process.poll() is None]
        for process in left:
            _signal(process, number)
        limit = time.monotonic() + seconds
        for process in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, limit - time.monotonic()))


def _signal(process: Process, number: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, getattr(signal, number))
        else:
            process.kill()
