"""A study as it stands: its trials, from files that other processes write."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier import lock
from espalier.errors import UserError
from espalier.study.book import COMPLETE, KILLED, RECORD, STARTED, Book, is_study, outcome
from espalier.tree import read_yaml
from espalier.watch import spark
from espalier.watch.rows import AFTER, BEFORE, CURVE, Points, Row, Value, cells, headings, others
from espalier.watch.tail import Curve, Record, Tail

RUNNING = "RUNNING"
WIDTH = 12  # characters of a curve


class Live:
    """STUDY; `refresh` reads what is new, `rows` and `columns` are what it came to.

    Nothing is written. Raises UserError where there is no study, or its record is damaged.
    """

    def __init__(self, place: Path):
        if not is_study(place):
            raise UserError(_no_study(place))
        Book(place).records()  # says what is wrong with them
        self.place = place
        self.rows: tuple[Row, ...] = ()
        self.columns: tuple[str, ...] = (*BEFORE, *AFTER)
        self.settings: tuple[str, ...] = ()
        """the columns that the study varies"""
        self._trials: dict[str, _Trial] = {}
        self._tail = Tail(place / RECORD)

    def refresh(self, seconds: float = math.inf) -> None:
        """Read on, for about `seconds` at most: what runs first, then what was never read."""
        fresh = self._tail.read()
        if fresh.anew:  # a sweep that begins writes the record again, in order
            self._trials = {}
        for record in fresh.records:
            self._note(record)
        limit = time.monotonic() + seconds
        for trial in self._unread():
            trial.look()
            if time.monotonic() > limit:
                break
        self._settle()

    @property
    def read(self) -> bool:
        """Whether all that is there has been read."""
        return all(one.read for one in self._trials.values())

    def counts(self) -> dict[str, int]:
        """How many trials are in each state."""
        states = [str(row["state"]) for row in self.rows]
        return {state: states.count(state) for state in sorted(set(states))}

    def _note(self, record: Record) -> None:
        if not {"state", "key", "settings"} <= record.keys():
            return
        key = str(record["key"])
        if key not in self._trials:
            self._trials[key] = _Trial(self.place / "runs" / key)
        self._trials[key].note(record)

    def _unread(self) -> list[_Trial]:
        found = [one for one in self._trials.values() if not one.read or one.started]
        return sorted(found, key=lambda one: not one.started)

    def _settle(self) -> None:
        trials = list(self._trials.values())
        records = [one.record for one in trials]
        names = headings(records)
        more = others(records, names.values())
        held = lock.owner_of(self.place / "lock") is not None
        self.settings = tuple(names.values())
        self.columns = (*BEFORE, *self.settings, *more, *AFTER)
        self.rows = tuple(
            Row(
                str(one.record["key"]),
                cells(one.record, names, more) | one.cells(held),
                one.curves[0],
                one.curves[1],
            )
            for one in trials
        )


class _Trial:
    """What was read of one trial."""

    def __init__(self, run: Path):
        self.run = run
        self.record: Record = {}
        self.tries = 0
        self.read = False
        self._summary: Mapping[str, Any] | None = None
        self._tail = Tail(run / "metrics.jsonl")
        self._config: Mapping[str, Any] | None = None
        self._forget()

    def _forget(self) -> None:
        self.train = Curve()
        self.evals: list[tuple[float, float]] = []
        self._last: Record = {}  # the newest training record
        self.curves: tuple[Points, Points] = ((), ())
        self._spark = ""

    @property
    def started(self) -> bool:
        return bool(self.record["state"] == STARTED)

    def note(self, record: Record) -> None:
        self.tries += record["state"] == STARTED
        self.record, self.read = record, False

    def look(self) -> None:
        """Bring up to date what the run's own files say."""
        fresh = self._tail.read()
        if fresh.anew:
            self._forget()
        for record in fresh.records:
            self._take(record)
        if fresh.records:
            self.curves = tuple(self.train.points), tuple(self.evals)
            longer = self.curves[0] if len(self.curves[0]) > 1 else self.curves[1]
            self._spark = spark.line([loss for _, loss in longer], WIDTH)
        if self.started:
            with contextlib.suppress(UserError):
                self._summary = outcome(self.run)
        self.read = True

    def _take(self, record: Record) -> None:
        kind, step = record.get("kind"), record.get("step")
        if not isinstance(step, int):
            return
        if kind == "train":
            self._last = record
            if (loss := _finite(record.get("loss"))) is not None:
                self.train.add(step, loss)
        elif kind == "eval" and (loss := _finite(record.get("val_loss"))) is not None:
            self.evals.append((step, loss))

    def cells(self, held: bool) -> dict[str, Value]:
        """What the run's own files say. `held`: somebody runs this study."""
        summary = self._summary or self.record
        losses = [loss for _, loss in self.evals]
        best, loss = _finite(summary.get("best_val_loss")), _finite(summary.get("val_loss"))
        found: dict[str, Value] = {
            "state": self._state(held),
            "tries": self.tries,
            CURVE: self._spark,
            "best": min(losses, default=None) if best is None else best,
            "loss": (losses[-1] if losses else None) if loss is None else loss,
            "train": _finite(self._last.get("loss")),
        }
        if self._last:
            found |= {"step": self._last["step"], "tokens/s": self._last.get("tokens_per_s")}
        return found | {"done": self._done(str(found["state"]))}

    def _state(self, held: bool) -> str:
        """A start without an end was killed, unless the run or the study has a living owner."""
        if not self.started:
            return str(self.record["state"])
        if self._summary is not None:
            return COMPLETE
        owned = held or lock.owner_of(self.run / "lock") is not None
        return RUNNING if owned else KILLED

    def _done(self, state: str) -> float | None:
        if state == COMPLETE:
            return 1.0
        if self._config is None and (self.run / "config.yaml").is_file():
            self._config = {}
            with contextlib.suppress(UserError):
                self._config = read_yaml(self.run / "config.yaml").tree.get("train") or {}
        planned = (self._config or {}).get("max_iters")
        step = self._last.get("step", 0)
        return min(1.0, step / planned) if isinstance(planned, int) and planned > 0 else None


def _finite(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if good else None


def _no_study(place: Path) -> str:
    if not place.exists():
        return f"no study at {place}"
    if (place / "config.yaml").is_file():
        return f"{place} is one run, not a study; espalier report {place} shows it"
    return f"{place} is no study: it has no {RECORD}, which espalier sweep and search write"
