"""One model along a curve of levels, each of which starts from the unpruned weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from espalier.compress import measure
from espalier.compress.finetune import Finetune, finetune
from espalier.compress.prunable import RULE, layers, prunable
from espalier.compress.slots import Job, Pattern, PruneConfig, Pruned, Scope
from espalier.config import encode
from espalier.data.tokens import Tokens
from espalier.durable import read_json
from espalier.errors import UserError
from espalier.intervals import mean_interval
from espalier.nn.gpt import GPT, GPTConfig
from espalier.nn.slots import Part

FORMAT = "espalier-prune-1"
Losses = NDArray[np.float64]
Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is done at every level, alike for every model."""

    method: PruneConfig
    scope: Scope
    levels: tuple[float, ...]
    """per cent"""
    finetune: Finetune
    pattern: Pattern | None = None
    include: frozenset[str] = frozenset()
    seed: int = 1337
    rounds: int = 5
    """of the clock; 0: no speed is measured"""

    def settings(self) -> Record:
        """What makes two curves the same kind; the levels and the clock are not of it."""
        return {
            "method": encode(self.method),
            "scope": self.scope,
            "pattern": list(self.pattern) if self.pattern else None,
            "rule": RULE,
            "include": sorted(self.include),
            "finetune": encode(self.finetune),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Bench:
    """What a model is judged by and trained on."""

    train: Tokens
    calibration: Tensor
    losses: Callable[[GPT], Losses]
    """of the same windows of validation text, every time"""
    write: Callable[[GPT], list[Record]]
    """samples"""
    about: Mapping[str, Any] = field(default_factory=dict)
    """of the texts: digests, windows, sizes"""
    window: int | None = None
    """tokens of a row of training; the model's block when left out"""


@dataclass(frozen=True)
class Level:
    """A level done: its record, and the model."""

    record: Record
    pruned: Pruned


def check(levels: Sequence[float]) -> tuple[float, ...]:
    """Levels in order, each once. UserError for one outside 0 to below 100."""
    for level in levels:
        if not (math.isfinite(level) and 0 <= level < 100):
            raise UserError(f"level {level:g} is outside 0 to 99.9 per cent")
    if not levels:
        raise UserError("no levels: --levels 0,25,45,70,90")
    return tuple(sorted(set(levels)))


def walk(
    model: GPT,
    config: GPTConfig,
    plan: Plan,
    bench: Bench,
    told: Callable[[float], None] = lambda loss: None,
) -> Iterator[Level]:
    """Prune, train on and measure a copy of `model` at each level of the plan."""
    before = bench.losses(model)
    original = sum(w.numel() for w in prunable(model, plan.include).values())
    for level in plan.levels:
        start = time.perf_counter()
        job = Job(level / 100, plan.scope, bench.calibration, plan.pattern, plan.include, plan.seed)
        untouched = Pruned(copy.deepcopy(model), config)
        pruned = plan.method.prune(untouched.model, config, job) if level else untouched
        raw = bench.losses(pruned.model)
        finetune(pruned, bench.train, plan.finetune, plan.seed, told, bench.window)
        after = bench.losses(pruned.model) if plan.finetune.steps else raw
        record = {
            "level": level,
            **measure.holdings(pruned, original, plan.include),
            "pruned_loss": mean_interval(raw),
            "loss": mean_interval(after),
            "perplexity": math.exp(min(float(after.mean()), 700)),
            "change": mean_interval(after - before),
            "removed": dict(pruned.removed),
            "removed_minus_masked": pruned.difference,
            "size_alone": list(pruned.unseen),
            "samples": bench.write(pruned.model),
        }
        if plan.rounds:
            record["speed"] = measure.speed(pruned, model, plan.rounds)
        yield Level(record | {"seconds": time.perf_counter() - start}, pruned)


def read(file: Path) -> Record:
    """What results/prune.json holds; an empty one where there is none. UserError for another."""
    if not file.is_file():
        return {"format": FORMAT, "curves": []}
    found = read_json(file)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{file} is no {FORMAT} file; move it away to prune anew")
    return found


def curve_of(results: Record, settings: Record) -> Record:
    """The curve in `results` that was made with `settings`; a new one, added, where none was."""
    for curve in results["curves"]:
        if curve["settings"] == settings:
            return dict(curve)
    return {"settings": settings, "levels": []}


def added(results: Record, curve: Record, level: Record) -> Record:
    """`results` with one more level on a curve, in order."""
    levels = [one for one in curve["levels"] if one["level"] != level["level"]]
    ordered = sorted([*levels, level], key=lambda one: one["level"])
    others = [one for one in results["curves"] if one["settings"] != curve["settings"]]
    return {**results, "curves": [*others, {**curve, "levels": ordered}]}


def layout(model: GPT) -> list[Record] | None:
    """What layers made of neurons say of themselves; None for a model without."""
    told = [(i, part.describe()) for i, part in enumerate(layers(model)) if isinstance(part, Part)]
    found = [{"layer": i, **facts} for i, facts in told if "shape" in facts]
    return found or None
