"""What a run directory says, gathered for a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.durable import read_json
from espalier.run import MANIFEST, Run

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Story:
    """One run's texts and numbers; every list in the order in which things happened."""

    path: Path
    config: Record
    environment: Record
    train: Sequence[Record]
    evals: Sequence[Record]
    samples: Sequence[Record]
    events: Sequence[Record]
    results: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Sequence[Path] = ()

    @property
    def manifest(self) -> Record:
        """File -> size and SHA-256 of the newest checkpoint, as it was written."""
        note = _json(self.checkpoints[-1] / MANIFEST) if self.checkpoints else {}
        return dict(note.get("files", {}))

    @property
    def last_step(self) -> int:
        return max((int(record["step"]) for record in (*self.train, *self.evals)), default=0)


def read(path: Path) -> Story:
    """Everything the page shows. Raises UserError where `path` is no run."""
    run = Run.open(path)
    kinds: dict[str, list[Record]] = {"train": [], "eval": [], "sample": [], "event": []}
    for record in run.metrics():
        kinds.setdefault(str(record.get("kind")), []).append(record)
    return Story(
        path=run.path,
        config=run.config,
        environment=run.environment,
        train=kinds["train"],
        evals=kinds["eval"],
        samples=kinds["sample"],
        events=kinds["event"],
        results={file.stem: _json(file) for file in sorted(run.path.glob("results/*.json"))},
        checkpoints=[run.checkpoint(step) for step in run.steps()],
    )


def finite(records: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one field, without the records that lack it or hold no number."""
    pairs = [(record["step"], record.get(key)) for record in records]
    kept = [(s, v) for s, v in pairs if isinstance(v, (int, float)) and math.isfinite(v)]
    return [float(step) for step, _ in kept], [float(value) for _, value in kept]


def thin(
    steps: list[float], values: list[float], most: int = 800
) -> tuple[list[float], list[float]]:
    """Means over equal bins where there are more points than anyone can see."""
    width = math.ceil(len(steps) / most)
    if width <= 1:
        return steps, values
    starts = range(0, len(steps), width)
    return [_mean(steps[i : i + width]) for i in starts], [
        _mean(values[i : i + width]) for i in starts
    ]


def median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else _mean(ordered[middle - 1 : middle + 1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _json(file: Path) -> Any:
    return read_json(file) if file.exists() else {}
