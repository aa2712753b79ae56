"""Where trials run: what the pool asks of a place, and a file for each place that there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # this package is imported on machines where only a trial's process needs torch
    from espalier.study.plan import Trial
    from espalier.study.worker import Worker

GRACE = 60.0  # seconds for saving, when everything is to end
NOWHERE = -1  # the number of a worker that is not known yet


class Attempt(Protocol):
    """A trial that has been given away, until it has come to an end of some kind."""

    trial: Trial
    worker: Worker
    """where it runs; on a cluster known only once it has begun"""

    @property
    def error(self) -> str:
        """Of one that has failed, or that the engine has lost."""

    @property
    def code(self) -> int | None:
        """The exit code; None as long as it waits or runs."""

    def begins(self) -> Iterable[Worker]:
        """Where it has begun since the last look; more than once where it was killed between."""


class Launcher(Protocol):
    """A place with room for a number of trials."""

    @property
    def most(self) -> int:
        """Trials at a time."""

    @property
    def room(self) -> Mapping[str, int]:
        """Free bytes of each device of this machine that has part in it; empty for a cluster."""

    @property
    def spent(self) -> bool:
        """Whether every worker was set aside."""

    def places(self, running: Mapping[str, Attempt]) -> Iterable[Worker]:
        """Where more may begin now."""

    def fits(self, trial: Trial, worker: Worker, running: Mapping[str, Attempt]) -> bool:
        """Whether there is memory for it."""

    def attempt(self, trial: Trial, worker: Worker) -> Attempt:
        """A trial to be run, not begun yet."""

    def start(self, attempts: list[Attempt]) -> None:
        """Give them away."""

    def end(self, attempts: Iterable[Attempt]) -> None:
        """Have them saved and ended, or taken out of the queue."""

    def pause(self) -> float:
        """Seconds until the next look."""
