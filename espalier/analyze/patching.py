"""Activation patching: what a corrupted run gets back from one activation of the clean run.

recovered = (patched - corrupted) / (clean - corrupted), of mean logit differences between answer
and wrong answer (Wang et al., arXiv:2211.00593; Zhang, Nanda, arXiv:2309.16042): 0 where the
activation carries nothing of what was corrupted, 1 where it carries all of it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from espalier.analyze import prompts, sight, stream
from espalier.analyze.heads import grid
from espalier.analyze.intervene import HEADS, changing, head_name, kept, put, site_of
from espalier.analyze.prompts import Prompts
from espalier.analyze.views import Found, Seen, heat
from espalier.errors import UserError
from espalier.nn.gpt import GPT


def look(seen: Seen) -> Found:
    pairs = prompts.chosen(seen)
    bench = Bench(seen.model, pairs)
    if not abs(bench.clean - bench.corrupted) > 0:
        raise UserError("the corrupted prompts change no logit difference: nothing to recover")
    sites = fnmatch.filter([*stream.layers(seen.model), *stream.parts(seen.model)], seen.only)
    where = positions(bench, sites)
    rows = [row for row in heads(bench) if fnmatch.fnmatchcase(row["head"], seen.only)]
    if not sites and not rows:
        raise UserError(f"no layer, part or head fits --only '{seen.only}'")
    words = sight.words(seen, pairs.clean[0].tolist())
    labels = [f"{number} {word}" for number, word in enumerate(words)]
    charts = [heat("positions", "Recovered", list(where.values()), (list(where), labels))]
    charts = (charts if where else []) + ([grid("recovered", rows)] if rows else [])
    listed = [
        {"site": site, "best": max(values), "at": values.index(max(values))}
        for site, values in where.items()
    ]
    listed += [{"site": row["head"], "best": row["recovered"], "at": None} for row in rows]
    found = {"clean": bench.clean, "corrupted": bench.corrupted, "prompts": len(pairs.answer)}
    return found | {"positions": where, "heads": rows, "rows": listed, "charts": charts}


class Bench:
    """A model between a clean and a corrupted run of prompts."""

    def __init__(self, model: GPT, pairs: Prompts):
        self.model, self.pairs = model, pairs
        self.clean = self._score(pairs.clean)
        self.corrupted = self._score(pairs.corrupted)

    @torch.no_grad()
    def _score(self, ids: Tensor) -> float:
        return float(self.pairs.difference(self.model(ids)).double().mean())

    def recovered(self, call: str, clean: Tensor, index: tuple[Any, ...]) -> float:
        """With what the clean run had at `index` of this call of a site."""
        with changing(self.model, {site_of(call): put(call, clean, index)}):
            patched = self._score(self.pairs.corrupted)
        return (patched - self.corrupted) / (self.clean - self.corrupted)


def positions(bench: Bench, sites: Sequence[str]) -> dict[str, list[float]]:
    """By call of a site, what each position of its output recovers."""
    clean = kept(bench.model, bench.pairs.clean, sites)
    time = bench.pairs.clean.shape[1]
    every = slice(None)
    return {
        call: [bench.recovered(call, x, (every, position)) for position in range(time)]
        for call, x in clean.items()
    }


def heads(bench: Bench) -> list[Found]:
    """By head, what its output at all positions recovers."""
    sites = [path + HEADS for path in stream.mixers(bench.model)]
    every = slice(None)
    return [
        {"head": head_name(call, head), "recovered": bench.recovered(call, x, (every, every, head))}
        for call, x in kept(bench.model, bench.pairs.clean, sites).items()
        for head in range(x.shape[2])
    ]
