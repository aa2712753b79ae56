"""How much of the loss each setting decides by itself: one-way analysis of variance, on ranks.

Losses become ranks, so that one run that blew up counts as the last and no more. A setting's values
are groups; numbers of more than four values are four groups of about equal size. Its share is

    1 - (S_w / (n - k)) / (S_t / (n - 1))

of n configurations in k groups, S_w the sum of squares within the groups and S_t that of all: the
part of the variance of the ranks that goes with the groups, less what k groups take by luck (Kelley
1935, epsilon squared). Beside it stands what 95 of 100 shuffles of the ranks stay below.

What it cannot see: settings that matter only together, and which of two that moved together did it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espalier.study.axis import is_number, words

GROUPS = 4
SHUFFLES = 200
LEAST = 6  # configurations, of which it is worth while


@dataclass(frozen=True)
class Share:
    """Of one setting."""

    path: str
    share: float
    chance: float
    """shuffled, 95 of 100 stay below it"""


def shares(
    values: Sequence[Mapping[str, Any]], losses: Sequence[float | None], paths: Sequence[str]
) -> list[Share]:
    """The settings in order of their shares; those with one value, or one for each, are left out.

    What never had a finite loss (None) ranks after every other. Empty for few configurations.
    """
    if len(losses) < LEAST:
        return []
    groups = {path: grouped([one.get(path) for one in values]) for path in paths}
    groups = {path: one for path, one in groups.items() if 1 < max(one) + 1 < len(losses)}
    ranked = ranks(losses)
    shuffled = list(ranked)
    luck: dict[str, list[float]] = {path: [] for path in groups}
    dice = random.Random(0)
    for _ in range(SHUFFLES):
        dice.shuffle(shuffled)
        for path, one in groups.items():
            luck[path].append(share(shuffled, one))
    found = [
        Share(
            path, max(0.0, share(ranked, one)), max(0.0, sorted(luck[path])[SHUFFLES * 95 // 100])
        )
        for path, one in groups.items()
    ]
    return sorted(found, key=lambda one: -one.share)


def share(ranked: Sequence[float], groups: Sequence[int]) -> float:
    """Epsilon squared; 0 where all ranks are equal."""
    number, kinds = len(ranked), max(groups) + 1
    mean = sum(ranked) / number
    total = sum((rank - mean) ** 2 for rank in ranked)
    sums, sizes = [0.0] * kinds, [0] * kinds
    for rank, group in zip(ranked, groups, strict=True):
        sums[group] += rank - mean
        sizes[group] += 1
    between = sum(part * part / size for part, size in zip(sums, sizes, strict=True))
    if not total or number <= kinds:
        return 0.0
    return 1 - ((total - between) / (number - kinds)) / (total / (number - 1))


def ranks(losses: Sequence[float | None]) -> list[float]:
    """From 1, equal ones share the mean of theirs; None stands last."""
    keys = [(loss is None, loss or 0.0) for loss in losses]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    found = [0.0] * len(keys)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and keys[order[end]] == keys[order[start]]:
            end += 1
        for index in order[start:end]:
            found[index] = (start + 1 + end) / 2
        start = end
    return found


def grouped(values: Sequence[Any]) -> list[int]:
    """A number from 0 for each value: its own, or of its quarter where there are many numbers."""
    if all(is_number(value) for value in values) and len(set(values)) > GROUPS:
        quarters = [int((rank - 0.5) * GROUPS / len(values)) for rank in ranks(values)]
        names = [str(quarter) for quarter in quarters]
    else:
        names = [words(value) for value in values]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]
