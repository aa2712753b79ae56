"""What a run's own files say: the only numbers that a study's report prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.durable import digest, read_json
from espalier.errors import UserError
from espalier.run import STATE, Run, weights_digest

MOST = 600  # numbers of one run
SHORT = 12  # characters of a hash that identify it


@dataclass(frozen=True)
class Facts:
    """A run: `numbers` by name, `hashes` of its configuration and newest weights."""

    name: str
    ended: str  # finished (why), or unfinished
    numbers: Mapping[str, float]
    configuration: str
    weights: str | None

    def table(self) -> dict[str, Any]:
        """What a model is told of a run at a glance."""
        keys = ("step", "tokens", "seconds", "parameters", "val_loss", "best_val_loss", "best_step")
        shown = {key: self.numbers[key] for key in keys if key in self.numbers}
        hashes = {"configuration": self.configuration, "weights": self.weights}
        return {"run": self.name, "ended": self.ended, **shown, **hashes}


def runs(study: Path) -> list[str]:
    """The runs of a study, as paths from it, oldest first."""
    files = [*study.glob("*/config.yaml"), *study.glob("*/*/config.yaml")]
    files.sort(key=lambda file: (file.stat().st_mtime, str(file)))
    return [str(file.parent.relative_to(study)) for file in files]


def read(study: Path, name: str) -> Facts:
    """UserError where `name` is no run of the study."""
    run = Run.open(study / name)
    numbers = dict(_leaves(run.config))
    summary: dict[str, Any] = {}
    for file in sorted((run.path / "results").glob("*.json")):
        found = read_json(file)
        if file.stem == "train":
            summary = dict(found)
            numbers.update(_leaves(summary))
        else:
            numbers.update(_leaves(found, file.stem))
    if not summary:
        numbers.update(_last_loss(run))
    numbers["tokens"] = trained(study, name)
    return Facts(
        name,
        f"finished ({summary['reason']})" if summary else "unfinished",
        dict(list(numbers.items())[:MOST]),
        digest(run.path / "config.yaml")[:SHORT],
        _weights(run),
    )


def trained(study: Path, name: str) -> int:
    """Tokens that a run has seen, by its summary, its newest checkpoint or its metrics."""
    folder = study / name
    if not (folder / "config.yaml").is_file():
        return 0
    run = Run.open(folder)
    seen = [int(record.get("tokens") or 0) for record in _metrics(run)]
    seen += [_tokens(run.checkpoint(step) / STATE) for step in run.steps()[-1:]]
    return max([0, *seen, _tokens(folder / "results" / "train.json")])


def finished(study: Path, name: str) -> bool:
    return (study / name / "results" / "train.json").is_file()


def log_interval(study: Path, name: str) -> int:
    """Updates between two lines of a run's metrics."""
    return int(Run.open(study / name).config["train"]["log_interval"])


def _tokens(file: Path) -> int:
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _metrics(run: Run) -> list[dict[str, Any]]:
    try:
        return run.metrics()
    except UserError:  # damaged; what else there is counts
        return []


def _last_loss(run: Run) -> dict[str, float]:
    seen = [one for one in _metrics(run) if one["kind"] == "eval"]
    return dict(_leaves({k: seen[-1].get(k) for k in ("step", "val_loss")})) if seen else {}


def _weights(run: Run) -> str | None:
    """SHA-256 of the newest weights, as their manifest has it."""
    for step in run.steps()[-1:]:
        found = weights_digest(run.checkpoint(step))
        return None if found is None else found[:SHORT]
    return None


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a tree, by dotted path."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for i, item in enumerate(tree):
            yield from _leaves(item, f"{path}.{i}")
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield path, tree
