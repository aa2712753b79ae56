"""The steps from one experiment to its neighbours: a value more or less, a layer more or less."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from espalier.config import encode
from espalier.errors import ConfigError
from espalier.search.slots import Problem, Settings
from espalier.search.space import EACH, LAYERS, Range, Values, at
from espalier.study.draft import depth
from espalier.tree import merge, override

DEPTH = "model.n_layer"
Ways = Literal["both", "up", "down"]
Duplicate = Literal["middle", "each"]


@dataclass(frozen=True)
class Move:
    """A neighbour: its settings, and the one thing in which it differs."""

    settings: Settings
    facts: Mapping[str, Any]


def moves(
    problem: Problem, settings: Settings, reach: int, ways: Ways, duplicate: Duplicate
) -> list[Move]:
    """The neighbours of `settings`, path by path; of numbers the larger ones first."""
    found: list[Move] = []
    tree = _laid(problem, settings)
    for path, values in problem.space.items():
        if path == DEPTH:
            found += _depth(tree, settings, values, duplicate)
        elif path.startswith(EACH):
            found += _each(tree, settings, path.removeprefix(EACH), values, reach)
        else:
            here = settings.get(path, problem.start.get(path, at(tree, path)))
            found += [
                Move({**settings, path: value}, {"param": path, "value": value, "from": here})
                for value in _near(values, here, reach)
            ]
    return [move for move in found if _goes(move, ways)]


def refuse_nowhere(problem: Problem) -> None:
    """ConfigError where the baseline has no number from which a range could be stepped through."""
    tree = encode(problem.baseline)
    block, entries = tree["model"]["block"], tree["model"]["layers"] or []
    for path, values in problem.space.items():
        rest = path.removeprefix(f"{EACH}block.")
        if rest == path:
            here = [at(tree, path)]
        else:
            here = [at(merge(block, entry["block"]), rest) for entry in entries]
        for value in here:
            if isinstance(values, Range) and _blank(value):
                raise ConfigError(
                    f"space.{path}: the baseline has no number there to step from, but {value!r}; "
                    "give it one under set"
                )


def _laid(problem: Problem, settings: Settings) -> Any:
    """The baseline's tree with settings on it; parts that were chosen by name stay names."""
    tree: Any = encode(problem.baseline)
    for path in sorted(settings, key=depth):
        tree = override(tree, path, settings[path])
    return tree


def _near(values: Values, here: Any, reach: int) -> list[Any]:
    return [] if isinstance(values, Range) and _blank(here) else values.near(here, reach)


def _blank(value: Any) -> bool:
    return isinstance(value, bool) or not isinstance(value, (int, float))


def _goes(move: Move, ways: Ways) -> bool:
    here, there = move.facts["from"], move.facts["value"]
    if ways == "both" or _blank(here) or _blank(there):
        return True
    return bool(there > here) if ways == "up" else bool(there < here)


def _depth(tree: Any, settings: Settings, values: Values, duplicate: Duplicate) -> Iterator[Move]:
    """One layer more and one less; where layers have entries of their own, one of those twice."""
    now = tree["model"]["n_layer"]
    entries = tree["model"]["layers"]
    for number in _near(values, now, 1):
        facts = {"param": DEPTH, "value": number, "from": now}
        if entries is None:
            yield Move({**settings, DEPTH: number}, facts)
            continue
        places = [(now - 1) // 2] if duplicate == "middle" else range(now)
        for i in places:
            copies = 2 if number > now else 0
            changed = [*entries[:i], *[entries[i]] * copies, *entries[i + 1 :]]
            yield Move({**settings, DEPTH: number, LAYERS: changed}, {**facts, "layer": i})


def _each(tree: Any, settings: Settings, path: str, values: Values, reach: int) -> Iterator[Move]:
    """A step in one layer at a time."""
    entries = tree["model"]["layers"]
    for i, entry in enumerate(entries):
        here = at(
            merge(tree["model"]["block"], entry.get("block", {})), path.removeprefix("block.")
        )
        for value in _near(values, here, reach):
            changed = override(entry, path, value)
            yield Move(
                {**settings, LAYERS: [*entries[:i], changed, *entries[i + 1 :]]},
                {"param": f"{LAYERS}[{i}].{path}", "value": value, "from": here},
            )
