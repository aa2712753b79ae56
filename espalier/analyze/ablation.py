"""What is lost without a part or a head, over prompts.

Its output gives way to zeros, to its mean over positions of corpus windows (of the prompts where
there is no corpus), or to what it says in another prompt at the same position (resampling, Chan et
al. 2022). The effect is the ablated logit difference minus the whole model's, in each prompt;
intervals are bootstrap percentiles over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espalier.analyze import prompts, sight, stream
from espalier.analyze.intervene import HEADS, changing, head_name, kept, put, site_of
from espalier.analyze.prompts import Prompts
from espalier.analyze.views import Baseline, Found, Rows, Seen, bars
from espalier.errors import UserError
from espalier.intervals import ratio
from espalier.nn.gpt import GPT


def look(seen: Seen) -> Found:
    pairs, model, asked = prompts.chosen(seen), seen.model, seen.asked
    sites = [*stream.parts(model), *(path + HEADS for path in stream.mixers(model))]
    usual = kept(model, pairs.clean, sites)
    instead = replacements(usual, asked.baseline, asked.seed, _means(seen, pairs, sites))
    rows: Rows = [
        {"site": name, **told(values, asked.seed)}
        for name, values in effects(model, pairs, instead, seen.only).items()
    ]
    if not rows:
        raise UserError(f"no part or head fits --only '{seen.only}'")
    with torch.no_grad():
        whole = pairs.difference(model(pairs.clean)).double()
    charts = [
        bars("effect", "Effect on the logit difference", {r["site"]: r["effect"] for r in rows})
    ]
    found: Found = {"baseline": asked.baseline, "prompts": len(whole), "whole": float(whole.mean())}
    return found | {"rows": rows, "charts": charts}


def _means(seen: Seen, pairs: Prompts, sites: list[str]) -> Mapping[str, Tensor]:
    """By call, the mean over rows and positions, of the corpus where there is one."""
    if seen.asked.baseline != "mean":
        return {}
    try:
        batches = [ids for ids, _ in sight.batches(seen)]
    except UserError:
        batches = [pairs.clean]
    sums: dict[str, Tensor] = {}
    count = 0
    for ids in batches:
        count += ids.numel()
        for call, x in kept(seen.model, ids, sites).items():
            here = x.double().sum((0, 1))
            sums[call] = sums[call] + here if call in sums else here
    return {call: total / count for call, total in sums.items()}


def replacements(
    usual: Mapping[str, Tensor], baseline: Baseline, seed: int, means: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By call, what takes the place of what stands there in `usual`, of the same shape."""
    if baseline == "zero":
        return {call: torch.zeros_like(x) for call, x in usual.items()}
    if baseline == "mean":
        return {call: means[call].to(x.dtype).expand_as(x) for call, x in usual.items()}
    rows = len(next(iter(usual.values())))
    if rows < 2:
        raise UserError("--baseline resample needs two prompts or more")
    chance = torch.Generator().manual_seed(seed)
    step = 1 + int(torch.randint(rows - 1, (), generator=chance))  # never a prompt's own
    return {call: x.roll(step, 0) for call, x in usual.items()}


@torch.no_grad()
def effects(
    model: GPT, pairs: Prompts, instead: Mapping[str, Tensor], only: str = "*"
) -> dict[str, Tensor]:
    """By part and head, (prompts,): the logit difference without it minus the whole model's."""
    whole = pairs.difference(model(pairs.clean)).double()
    found = {}
    for call, new in instead.items():
        for name, index in _places(call, new):
            if fnmatchcase(name, only):
                with changing(model, {site_of(call): put(call, new, index)}):
                    without = pairs.difference(model(pairs.clean)).double()
                found[name] = without - whole
    return found


def _places(call: str, new: Tensor) -> list[tuple[str, tuple[Any, ...]]]:
    if HEADS not in call:
        return [(call, (slice(None),))]
    return [(head_name(call, h), (slice(None), slice(None), h)) for h in range(new.shape[2])]


def told(values: Tensor, seed: int) -> dict[str, float | None]:
    """The mean effect and the ends of its interval; none where one prompt says nothing of them."""
    found = ratio(values.double().cpu().numpy(), np.ones(len(values)), seed)
    return {"effect": found.mean, "low": found.low, "high": found.high}
