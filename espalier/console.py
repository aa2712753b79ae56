"""What people see while a command runs; only commands speak.

Results go to stdout (`out`), everything on the way to stderr (`say`, `warn`, `progress`). Under
`--json` stdout holds one JSON object and nothing else, so that results for people join the rest.
"""

import io
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from espalier.units import count, duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal

_json = False


def want_json(wanted: bool) -> None:
    """Called once, by the command line."""
    global _json
    _json = wanted


def open_missing() -> None:
    """A stream that the caller has closed leads nowhere; `print` would take another's place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))


def forgive() -> None:
    """A byte of the input that is no UTF-8 is U+FFFD, and no reason to stop."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def unheard() -> None:
    """Lead a stream that nobody reads any more, or that has no room, nowhere."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def out(text: str = "", end: str = "\n") -> None:
    """A result, or with `end=""` a piece of one."""
    print(text, end=end, file=sys.stderr if _json else sys.stdout, flush=True)


def say(text: str) -> None:
    """A remark on the way."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    say(f"warning: {text}")


class Progress(Protocol):
    """Work under way."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """The newest finding, such as the present loss."""


@contextmanager
def progress(total: float | None, title: str, unit: str = "") -> Iterator[Progress]:
    """A bar with rate and time left on a terminal, otherwise a line every ten seconds.

    `total` is in `unit`s, None when nobody knows it.
    """
    if not on_terminal(sys.stderr):
        lines = _Lines(total, title, unit)
        yield lines
        lines.finish()
        return
    with _rich_bar() as display:
        yield _Bar(display, total, title, unit)


def on_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def in_colour() -> bool:
    """May `out` use escape sequences? https://no-color.org, and FORCE_COLOR for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    stream = sys.stderr if _json else sys.stdout
    return bool(os.environ.get("FORCE_COLOR")) or on_terminal(stream)


def pace(done: float, total: float | None, seconds: float, unit: str) -> str:
    """How far, how fast, how long still: `250 of 2k steps, 31.2 steps/s, 56 s left`."""
    named = f" {unit}" if unit else ""
    rate = done / seconds if seconds > 0 else 0.0
    speed = f"{count(rate)}{named}/s"
    if not total:
        return f"{count(done)}{named}, {speed}"
    left = (total - done) / rate if rate > 0 else math.inf
    return f"{count(done)} of {count(total)}{named}, {speed}, {duration(max(left, 0))} left"


class _Lines:
    def __init__(self, total: float | None, title: str, unit: str):
        self.total, self.title, self.unit = total, title, unit
        self.done = 0.0
        self.text = ""
        self.start = self.last = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last >= LINE_EVERY:
            self.last = now
            self._line(pace(self.done, self.total, now - self.start, self.unit))

    def note(self, text: str) -> None:
        self.text = text

    def finish(self) -> None:
        named = f" {self.unit}" if self.unit else ""
        self._line(f"{count(self.done)}{named} in {duration(time.monotonic() - self.start)}")

    def _line(self, text: str) -> None:
        say(f"{self.title}: {text}" + (f", {self.text}" if self.text else ""))


class _Bar:
    def __init__(self, display: "RichProgress", total: float | None, title: str, unit: str):
        self.display, self.total, self.unit = display, total, unit
        self.start = time.monotonic()
        self.done = 0.0
        self.task = display.add_task(title, total=total, pace="", note="")

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        text = pace(self.done, self.total, time.monotonic() - self.start, self.unit)
        self.display.update(self.task, completed=self.done, pace=text)

    def note(self, text: str) -> None:
        self.display.update(self.task, note=text)


def _rich_bar() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[pace]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    console = Console(stderr=True)
    # A result sent to a file must not be caught by the bar; one sent to the terminal goes above it.
    return RichProgress(*columns, console=console, redirect_stdout=on_terminal(sys.stdout))
