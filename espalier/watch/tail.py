"""A growing file of JSON lines, each read once; and a curve that stays small as it grows."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]
MOST = 512  # points of a curve


class Fresh(NamedTuple):
    """What is new; `anew`: all of it, forget what was read before."""

    anew: bool
    records: list[Record]


class Tail:
    """Follows `file`, which another process appends to or replaces."""

    def __init__(self, file: Path):
        self.file = file
        self._begun: tuple[int, int] | None = None  # device and inode of what was read
        self._offset = 0

    def read(self) -> Fresh:
        """The records since the last call; a file that is not there has none.

        A run that goes on from a checkpoint replaces its file: that begins anew. A last line
        without its end waits for it; a line that is no object is left out.
        """
        try:
            with self.file.open("rb") as stream:
                anew = self._replaced(os.fstat(stream.fileno()))
                stream.seek(self._offset)
                text = stream.read()
        except FileNotFoundError:
            return Fresh(False, [])
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = (_record(line) for line in whole.split(b"\n"))
        return Fresh(anew, [record for record in found if record is not None])

    def _replaced(self, now: os.stat_result) -> bool:
        place = (now.st_dev, now.st_ino)
        anew = self._begun != place or now.st_size < self._offset
        if anew:
            self._begun, self._offset = place, 0
        return anew


def _record(line: bytes) -> Record | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class Curve:
    """Values over steps as means of equal bins; the bins double when there are too many."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._width = 1
        self._bin: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        self._bin.append((step, value))
        if len(self._bin) < self._width:
            return
        self.points.append(_mean(self._bin))
        self._bin = []
        if len(self.points) == MOST:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [_mean(list(pair)) for pair in pairs]
            self._width *= 2


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    number = len(points)
    return sum(step for step, _ in points) / number, sum(value for _, value in points) / number
