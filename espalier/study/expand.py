"""ReaLLM-Forge's form of a sweep: lists multiply, ranges, conditions, groups.

Scalars are fixed. `{range: {start, end, step}}` is a list with its end in it. `{conditions: [[key,
value], ...], options: [...]}` counts only where all conditions hold; they are worked out in the
order of the file, so that one may depend on another. Each of `parameter_groups` goes on top of the
rest in its turn; in a group, too, everything may stand that may stand outside.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from espalier.errors import ConfigError, nearest
from espalier.study.reading import Document

GROUPS = "parameter_groups"
STEPS = {int: 1, float: 0.1}  # where a range names none
MOST = 1_000_000  # values of one range


def combinations(document: Document) -> list[dict[str, Any]]:
    """Flag -> value for each run that the document asks for, in its order."""
    base = {key: value for key, value in document.tree.items() if key != GROUPS}
    groups = document.tree.get(GROUPS, [{}])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ConfigError(f"{document.at(GROUPS)}: {GROUPS} takes a list of mappings")
    return [found for group in groups for found in _product(base | group, document)]


def swept(document: Document) -> set[str]:
    """The flags that may differ between the runs of a document."""
    groups = document.tree.get(GROUPS, [])
    several = {key for key, value in document.tree.items() if isinstance(value, (list, dict))}
    return several.union(*groups) - {GROUPS}


def _product(tree: Mapping[str, Any], document: Document) -> Iterator[dict[str, Any]]:
    plain = {key: value for key, value in tree.items() if not _conditional(value)}
    later = {key: value for key, value in tree.items() if _conditional(value)}
    for key, value in later.items():
        _check(key, value, tree, document)
    axes = {key: _values(key, value, document) for key, value in plain.items()}
    for values in itertools.product(*axes.values()):
        found = [dict(zip(axes, values, strict=True))]
        for key, value in later.items():
            options = _values(key, value["options"], document)
            found = [longer for one in found for longer in _added(one, key, value, options)]
        yield from found


def _added(
    one: dict[str, Any], key: str, value: Mapping[str, Any], options: list[Any]
) -> list[dict[str, Any]]:
    if all(name in one and same(one[name], wanted) for name, wanted in value["conditions"]):
        return [one | {key: option} for option in options]
    return [one]


def same(one: Any, other: Any) -> bool:
    """Equal, and true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _conditional(value: Any) -> bool:
    return isinstance(value, dict) and ("conditions" in value or "options" in value)


def _check(key: str, value: Mapping[str, Any], tree: Mapping[str, Any], document: Document) -> None:
    here = document.at(key)
    if set(value) != {"conditions", "options"}:
        raise ConfigError(f"{here}: {key} takes conditions and options, got {', '.join(value)}")
    pairs = value["conditions"]
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise ConfigError(f"{here}: {key}.conditions is a list of [key, value]")
    for name, _ in pairs:
        if name not in tree:
            hint = nearest(str(name), tree)
            raise ConfigError(f"{here}: {key} depends on '{name}', which is not set.{hint}")


def _values(key: str, value: Any, document: Document) -> list[Any]:
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"{document.at(key)}: {key} has no values: no run would be left")
        return value
    if not isinstance(value, dict):
        return [value]
    if set(value) != {"range"} or not isinstance(value["range"], dict):
        known = "a value, a list, {range: ...} or {conditions: ..., options: ...}"
        raise ConfigError(f"{document.at(key)}: {key} takes {known}")
    wanted = value["range"]
    if not {"start", "end"} <= set(wanted) <= {"start", "end", "step"}:
        said = ", ".join(wanted)
        raise ConfigError(f"{document.at(key)}: {key}.range has start, end and step, got {said}")
    try:
        return spread(**wanted)
    except ValueError as error:
        raise ConfigError(f"{document.at(key)}: {key}.range: {error}") from None


def spread(start: Any, end: Any, step: Any = None) -> list[float]:
    """From `start` to `end`, which is among them where whole steps lead there."""
    given = (start, end) if step is None else (start, end, step)
    if not all(type(number) in (int, float) and math.isfinite(number) for number in given):
        raise ValueError("start, end and step are numbers")
    whole = type(start) is type(end) is int and type(step) in (int, type(None))
    pace = STEPS[int if whole else float] if step is None else step
    if not pace > 0:
        raise ValueError(f"step must be above 0, got {pace}")
    size = math.floor((end - start) / pace + 1e-9) + 1  # 0.3 / 0.1 is a little under 3
    if not 1 <= size <= MOST:
        raise ValueError(f"{size} values from {start} to {end} by {pace}")
    return [start + i * pace if whole else round(start + i * pace, 12) for i in range(size)]
