"""A place where trials run one after the other, and whether it can be trusted with more."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espalier.study.plan import Trial

ALIKE = 3  # trials in a row that fail in one way before their worker is set aside
WRONG_INPUT = 2  # the exit code of what is wrong on every worker alike


@dataclass
class Worker:
    """A device of this machine with some of its threads; or, with a `host`, a machine elsewhere."""

    number: int
    device: str = "cpu"
    threads: int = 1
    host: str = ""
    aside: bool = False
    cause: str = ""
    alike: list[Trial] = field(default_factory=list)
    """trials that failed here one after the other, all for `cause`"""

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

    def named(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"worker": self.number} | ({"host": self.host} if self.host else {})


def alike(error: str) -> str:
    """An error without what differs from trial to trial: numbers, hashes, places."""
    return re.sub(r"\S*[/\\]\S*|\b[0-9a-f]{12}\S*|\d+(?:\.\d+)?", "*", error)
