"""Whole units go and the model gets smaller: hidden features, heads, and whatever a part offers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from espalier.compress.inputs import norms
from espalier.compress.prunable import prunable
from espalier.compress.shrink import Gone, Site, Where, difference, sites, take_out
from espalier.compress.slots import Job, PruneConfig, Pruned
from espalier.errors import UserError
from espalier.nn.gpt import GPT, GPTConfig
from espalier.nn.units import Place, Places


class StructuredConfig(PruneConfig):
    """score = sum of (|w| ||x||_2)^2 over all a unit writes, per weight that it holds"""

    scopes = ("global", "layer")
    patterns = False

    def prune(self, model: GPT, config: GPTConfig, job: Job) -> Pruned:
        if not sites(model):
            raise UserError("no part of this model says which of its units can be taken out")
        weights = prunable(model)
        sizes, unseen = norms(model, weights, job)
        energy = {name: (w.detach() * sizes[name]).square() for name, w in weights.items()}
        offers = [offer_of(model, site, energy) for site in sites(model)]
        gone: dict[Where, list[int]] = {}
        for together in [offers] if job.scope == "global" else [[offer] for offer in offers]:
            gone |= cheapest(together, weights, job.share, whole=job.scope == "global")
        smaller, shape = take_out(model, config, gone)
        apart = difference(model, smaller, gone, job.text[:4])
        removed: dict[str, int] = {}
        for where, units in gone.items():
            removed[where.kind] = removed.get(where.kind, 0) + len(units)
        return Pruned(smaller, shape, removed=removed, difference=apart, unseen=unseen)


@dataclass(frozen=True)
class Offer:
    """Units of one site, and what taking one out would cost."""

    where: Where
    worth: Sequence[float]
    """of each unit: the energy it writes, over the calibration text"""
    places: Places
    """all of a unit, by the model's own names"""


def offer_of(model: GPT, site: Site, energy: Mapping[str, Tensor]) -> Offer:
    names = {id(p): name for name, p in model.named_parameters()}
    ours = {name: names[id(p)] for name, p in site.part.named_parameters()}

    def named(places: Sequence[Place]) -> list[Place]:
        # a buffer keeps its name: weights alone are counted
        return [p._replace(parameter=ours.get(p.parameter, p.parameter)) for p in places]

    worth = [
        sum(
            float(energy[name].narrow(dim, first, size).sum())
            for name, dim, first, size in named(site.units.writes(unit))
        )
        for unit in range(site.units.count)
    ]
    return Offer(site.where, worth, lambda unit: named(site.units.places(unit)))


class Ledger:
    """How many weights go when units do; what two of them share goes once."""

    def __init__(self, weights: Mapping[str, Tensor]):
        self.left = {
            (name, dim): np.ones(size, bool)
            for name, weight in weights.items()
            for dim, size in enumerate(weight.shape)
        }
        self.shape = {name: list(weight.shape) for name, weight in weights.items()}

    def cost(self, places: Sequence[Place]) -> int:
        """Weights that would go with these places."""
        shape: dict[str, list[int]] = {}
        for name, dim, first, size in places:
            if name in self.shape:  # biases and the like are not counted
                after = shape.setdefault(name, list(self.shape[name]))
                after[dim] -= int(self.left[name, dim][first : first + size].sum())
        return sum(math.prod(self.shape[n]) - math.prod(after) for n, after in shape.items())

    def take(self, places: Sequence[Place]) -> None:
        for name, dim, first, size in places:
            if name in self.shape:
                piece = self.left[name, dim][first : first + size]
                self.shape[name][dim] -= int(piece.sum())
                piece[:] = False


def cheapest(
    offers: Sequence[Offer], weights: Mapping[str, Tensor], share: float, *, whole: bool
) -> dict[Where, list[int]]:
    """Units in the order of worth per weight, while no more than a share of the weights goes.

    The share is of all weights, or (not `whole`) of those that belong to the units. One of each
    site stays; of equal units the first goes first.
    """
    ledger = Ledger(weights)
    every = [
        place for offer in offers for u in range(len(offer.worth)) for place in offer.places(u)
    ]
    held = sum(w.numel() for w in weights.values()) if whole else ledger.cost(list(set(every)))
    budget = int(share * held)
    left = {offer.where: len(offer.worth) - 1 for offer in offers}
    gone: dict[Where, list[int]] = {}
    ranked = sorted(
        (worth / max(1, ledger.cost(offer.places(unit))), number, unit)
        for number, offer in enumerate(offers)
        for unit, worth in enumerate(offer.worth)
    )
    for _, number, unit in ranked:
        where, places = offers[number].where, offers[number].places(unit)
        cost = ledger.cost(places)
        if left[where] and cost <= budget and not _within(where, gone):
            ledger.take(places)
            left[where] -= 1
            budget -= cost
            gone.setdefault(where, []).append(unit)
    return {where: units for where, units in gone.items() if not _within(where, gone)}


def _within(where: Where, gone: Gone) -> bool:
    """Does it lie inside a unit that goes?"""
    if where.inside is None:
        return False
    kind, unit = where.inside
    return unit in gone.get(Where(where.layer, where.path, kind), ())
