"""What a study found: a row for each trial, and seeds together with their mean and interval."""

import csv
import io
import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.errors import need
from espalier.run import Run
from espalier.study.axis import words
from espalier.study.book import COMPLETE, FAILED, Book, Record, outcome

# 97.5 % of Student's t lie below this, for 1 to 30 degrees of freedom.
T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
Z = 1.959964  # and of the normal distribution's


@dataclass(frozen=True)
class Interval:
    """Mean of replicates, and 95 % of where the true mean may lie; no half width for one value."""

    mean: float
    half: float | None
    number: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half is None else f" ± {self.half:.4f}")


@dataclass(frozen=True)
class Point:
    """One configuration: what it varies, and its replicates."""

    configuration: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    """of its runs that have come to their end, and of those that failed"""
    loss: Interval | None
    """the lowest validation loss of each run"""
    parameters: int | None
    seconds: float
    """of one run, on average"""
    bytes: int | None = None
    """of one run's weights on the disk"""
    lost: tuple[int, ...] = ()
    """those of `seeds` that have no finite loss: the mean knows nothing of them"""

    @property
    def first(self) -> int:
        """The first seed that has a finite loss, where any has."""
        return min(set(self.seeds) - set(self.lost), default=self.seeds[0])

    @property
    def replicates(self) -> str:
        """seed 1, 3 seeds, 2 of 3 seeds: those that the loss is the mean of."""
        number = len(self.seeds)
        if number == 1:
            return f"seed {self.seeds[0]}"
        return f"{number - len(self.lost)} of {number} seeds" if self.lost else f"{number} seeds"


def interval(values: Sequence[float]) -> Interval:
    """By Student's t, which takes the values for independent and about normal."""
    mean, number = statistics.fmean(values), len(values)
    if number < 2:
        return Interval(mean, None, number)
    t = T[number - 2] if number - 1 <= len(T) else Z + (Z**3 + Z) / (4 * (number - 1))
    return Interval(mean, t * statistics.stdev(values) / math.sqrt(number), number)


def complete(place: Path) -> list[Record]:
    """The records of the runs that have come to their end, with those runs' own numbers."""
    found = [record for record in Book(place).records() if record["state"] == COMPLETE]
    runs = [(record, place / "runs" / record["key"]) for record in found]
    summaries = [(record, outcome(run), weights(run)) for record, run in runs]
    return [record | summary | size for record, summary, size in summaries if summary is not None]


def failed(place: Path) -> list[Record]:
    """The newest records of the trials that failed and have not been tried again."""
    newest = latest(Book(place).records())
    return [record for record in newest.values() if record["state"] == FAILED]


def weights(run: Path) -> Record:
    """`bytes` of the newest checkpoint's weights; nothing where there is no checkpoint."""
    steps = Run(run, {}).steps()
    files = Run(run, {}).checkpoint(steps[-1]).glob("model*.safetensors") if steps else ()
    size = sum(file.stat().st_size for file in files)
    return {"bytes": size} if size else {}


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """Key -> the newest record of that trial, in the order in which they began."""
    return {record["key"]: record for record in records}


def points(records: Iterable[Record], failed: Iterable[Record] = ()) -> list[Point]:
    """Configurations of finished runs, the lowest mean loss first.

    One with a seed that has no finite loss, or whose run is among the `failed`, stands after all
    that have none: what is left of it is a choice of its luckier seeds.
    """
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        groups.setdefault(record["configuration"], {})[record["key"]] = record
    seeds: dict[str, set[int]] = {}
    for record in failed:
        if record["key"] not in groups.get(record["configuration"], ()):
            seeds.setdefault(record["configuration"], set()).add(record["seed"])
    found = [_point([*group.values()], seeds.get(name, set())) for name, group in groups.items()]
    return sorted(found, key=_rank)


def _rank(point: Point) -> tuple[bool, float]:
    return bool(point.lost), math.inf if point.loss is None else point.loss.mean


def judged(found: Iterable[Point]) -> list[Point]:
    """Those that may be compared: with a finite loss for every seed; without any, for some."""
    known = [point for point in found if point.loss is not None]
    return [point for point in known if not point.lost] or known


def _point(group: Sequence[Record], failed: Collection[int]) -> Point:
    losses = [loss for record in group if (loss := loss_of(record)) is not None]
    lost = {record["seed"] for record in group if loss_of(record) is None}.union(failed)
    times = [record["seconds"] for record in group if record.get("seconds") is not None]
    return Point(
        group[0]["configuration"],
        group[0]["settings"],
        tuple(sorted({record["seed"] for record in group}.union(failed))),
        interval(losses) if losses else None,
        group[0].get("parameters"),
        statistics.fmean(times) if times else 0.0,
        group[0].get("bytes"),
        tuple(sorted(lost)),
    )


def loss_of(record: Record) -> float | None:
    """The lowest validation loss of a run; None where there is no finite one."""
    best = record.get("best_val_loss")
    loss = record.get("val_loss") if best is None else best
    return loss if isinstance(loss, (int, float)) and math.isfinite(loss) else None


def columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """A value for each run under each name: identity, what the study varies, its summary.

    None where a run has none; what has parts is written as JSON.
    """
    varied = list(dict.fromkeys(path for record in records for path in record["settings"]))
    told = [*dict.fromkeys(key for record in records for key in record if key not in _IDENTITY)]
    found = {name: [record[name] for record in records] for name in _IDENTITY[:3]}
    found |= {path: [_cell(record["settings"].get(path)) for record in records] for path in varied}
    return found | {name: [_cell(record.get(name)) for record in records] for name in told}


def _cell(value: Any) -> Any:
    parts = isinstance(value, (Mapping, list, tuple))
    return json.dumps(value, ensure_ascii=False) if parts else value


def to_csv(records: Sequence[Record]) -> str:
    """A line for each run."""
    found = columns(records)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(found)
    writer.writerows(zip(*found.values(), strict=True))
    return stream.getvalue()


def to_parquet(records: Sequence[Record]) -> bytes:
    """A row for each run; a column of several types is one of texts. Needs pyarrow."""
    pyarrow = need("pyarrow", "data")
    written = need("pyarrow.parquet", "data")
    found = {name: _of_one_type(values) for name, values in columns(records).items()}
    buffer = io.BytesIO()
    written.write_table(pyarrow.table(found), buffer)
    return buffer.getvalue()


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return [float(value) if float in kinds and value is not None else value for value in values]
    return [None if value is None else words(value) for value in values]


_IDENTITY = ("key", "configuration", "seed", "settings", "state", "worker", "time")
