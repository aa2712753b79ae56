"""What a study's directory says, gathered for a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.errors import UserError
from espalier.study.book import STARTED, Book, Record, configuration
from espalier.study.table import Point, complete, failed, judged, latest, points
from espalier.tree import read_yaml

SEARCH = "search.jsonl"  # what a search asked, and what it was told


@dataclass(frozen=True)
class Found:
    """One study."""

    place: Path
    records: Sequence[Record]
    """of the runs that came to their end, in that order"""
    points: Sequence[Point]
    """configurations, the lowest mean loss first, those that lost seeds last"""
    newest: Mapping[str, Record]
    """the newest record of every trial"""
    values: Mapping[str, Mapping[str, Any]]
    """configuration -> path -> value, of every path that differs somewhere in the study"""
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """configuration -> name -> what it takes"""
    tries: Mapping[str, int] = field(default_factory=dict)
    """how often each trial was begun"""

    @property
    def paths(self) -> list[str]:
        return list(dict.fromkeys(path for one in self.values.values() for path in one))

    @property
    def searched(self) -> bool:
        """Whether a search chose the configurations."""
        return (self.place / SEARCH).is_file()

    @property
    def judged(self) -> list[Point]:
        """The points that may be compared, in their order."""
        return judged(self.points)

    @property
    def best(self) -> Point | None:
        """The point of the lowest mean loss; one that lost seeds only where all did."""
        return next(iter(self.judged), None)

    def recipe(self, point: Point) -> Path:
        """The whole configuration of a point, with its first seed that has a loss."""
        return configuration(self.place, f"{point.configuration}-s{point.first}")


def read(place: Path) -> Found:
    """Raises UserError for a record that is damaged."""
    records, every = complete(place), Book(place).records()
    found = points(records, failed(place))
    more = told(place)
    return Found(
        place,
        records,
        found,
        latest(every),
        settings(place, found),
        {point.configuration: _costs(point) | more.get(point.configuration, {}) for point in found},
        _tries(every),
    )


def settings(place: Path, found: Iterable[Point]) -> dict[str, dict[str, Any]]:
    """What differs, with the values that a trial of a search has from its baseline."""
    found = list(found)
    paths = list(dict.fromkeys(path for point in found for path in point.settings))
    values = {}
    for point in found:
        whole: Mapping[str, Any] = {}
        if any(path not in point.settings for path in paths):
            file = configuration(place, f"{point.configuration}-s{point.first}")
            whole = read_yaml(file).tree if file.is_file() else {}
        values[point.configuration] = {
            path: point.settings[path] if path in point.settings else at(whole, path)
            for path in paths
        }
    return values


def at(tree: Any, path: str) -> Any:
    """The value at a dotted path, of a part its name; None where there is none."""
    for name in path.split("."):
        if isinstance(tree, Mapping):
            tree = tree.get(name)
        elif isinstance(tree, list) and name.isdigit() and int(name) < len(tree):
            tree = tree[int(name)]
        else:
            return None
    return tree["name"] if isinstance(tree, Mapping) and "name" in tree else tree


def told(place: Path) -> dict[str, dict[str, float]]:
    """Configuration -> what a search counted and measured of it; nothing for a sweep."""
    file = place / SEARCH
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    keys: dict[int, list[str]] = {}
    found: dict[str, dict[str, float]] = {}
    try:
        for entry in map(json.loads, lines):
            if "asked" in entry:
                keys[entry["asked"]] = entry["keys"]
            elif entry["found"] is not None and keys[entry["told"]]:
                configuration = keys[entry["told"]][0].rpartition("-s")[0]
                found[configuration] = {k: v for k, v in entry["found"].items() if k != "loss"}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{file} is damaged: a line in it is no entry") from None
    return found


def _costs(point: Point) -> dict[str, float]:
    own = {"parameters": point.parameters, "bytes": point.bytes, "seconds": point.seconds or None}
    return {name: float(cost) for name, cost in own.items() if cost is not None}


def _tries(records: Iterable[Record]) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in records:
        found[record["key"]] = found.get(record["key"], 0) + (record["state"] == STARTED)
    return found
