"""Units taken out of a model for good: fewer rows and columns, and a configuration that says so."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from espalier.compress.prunable import layers
from espalier.config import encode, refine
from espalier.engine.generate import evaluating
from espalier.nn.gpt import GPT, GPTConfig
from espalier.nn.slots import Position
from espalier.nn.units import Place, Shrinks, Units
from espalier.train import checkpoint
from espalier.tree import merge


class Where(NamedTuple):
    """A kind of units of one part."""

    layer: int
    path: str  # of the part below its block; empty for the block itself
    kind: str
    inside: tuple[str, int] | None = None


@dataclass(frozen=True)
class Site:
    """Units that can be taken out, and the part they belong to."""

    where: Where
    part: nn.Module
    units: Units

    def at(self, place: Place) -> Tensor:
        """That piece of a parameter: a view."""
        tensor = self.part.get_parameter(place.parameter)
        return tensor.narrow(place.dim, place.first, place.size)


Gone = Mapping[Where, Collection[int]]


def sites(model: GPT) -> list[Site]:
    """Every kind of units of every part that can get smaller, layer by layer.

    A part that several layers share stands in the first of them.
    """
    first: dict[int, tuple[int, str, nn.Module]] = {}
    for layer, block in enumerate(layers(model)):
        for path, part in block.named_modules():
            first.setdefault(id(part), (layer, path, part))
    return [
        Site(Where(layer, path, units.kind, units.inside), part, units)
        for layer, path, part in first.values()
        for units in (part.removable() if isinstance(part, Shrinks) else ())
        if units.count > 1 and not (units.kind == "head" and _tells_heads_apart(model))
    ]


def _tells_heads_apart(model: GPT) -> bool:
    """Has each head a bias of its own, by its number (ALiBi)?"""
    return type(model.trunk.position).bias is not Position.bias


def dead(model: GPT) -> dict[Where, list[int]]:
    """Units that are not heard: every weight through which they write is zero."""
    found = {}
    for site in sites(model):
        silent = [
            unit
            for unit in range(site.units.count)
            if not any(bool(site.at(place).any()) for place in site.units.writes(unit))
        ]
        if silent:
            found[site.where] = silent
    return found


@torch.no_grad()
def silence(model: GPT, gone: Gone) -> None:
    """Set all that these units write to zero: they stay, unheard."""
    for site in sites(model):
        for unit in gone.get(site.where, ()):
            for place in site.units.writes(unit):
                site.at(place).zero_()


def take_out(model: GPT, config: GPTConfig, gone: Gone) -> tuple[GPT, GPTConfig]:
    """A new model without these units, and its configuration; of each kind at least one stays.

    Units inside others (branches of neurons) go first, so that the others keep their numbers.
    """
    steps = dict.fromkeys((where.inside, where.kind) for where in gone)
    for inside, kind in sorted(steps, key=lambda step: step[0] is None):
        part = {w: units for w, units in gone.items() if (w.inside, w.kind) == (inside, kind)}
        model, config = _take_kind(model, config, part)
    return model, config


def _take_kind(model: GPT, config: GPTConfig, gone: Gone) -> tuple[GPT, GPTConfig]:
    """Units of one kind."""
    prefixes = {id(part): name for name, part in model.named_modules()}
    tensors = checkpoint.tensors(model)
    patches: dict[int, dict[str, Any]] = {}
    for site in sites(model):
        units = gone.get(site.where)
        if not units:
            continue
        kept = [unit for unit in range(site.units.count) if unit not in set(units)]
        assert kept, f"{site.where}: one unit stays at least"
        where = site.where
        patch = _below(where.path, site.units.patch(kept))
        for layer, block in enumerate(layers(model)):
            if dict(block.named_modules()).get(where.path) is site.part:
                patches[layer] = merge(patches.get(layer, {}), patch)
        _carry(tensors, f"{prefixes[id(site.part)]}.", site, kept)
    smaller = refine(config, {"layers": _layers(config, patches)}, "model")
    return _filled(smaller, tensors, model), smaller


def _filled(config: GPTConfig, tensors: Mapping[str, Tensor], former: GPT) -> GPT:
    built = config.build().to(next(former.parameters()))
    checkpoint.fill(checkpoint.tensors(built), tensors, "the smaller model")
    return built.train(former.training)


def _below(path: str, patch: Mapping[str, Any]) -> dict[str, Any]:
    for key in reversed(path.split(".") if path else []):
        patch = {key: patch}
    return dict(patch)


def _carry(tensors: dict[str, Tensor], prefix: str, site: Site, kept: Sequence[int]) -> None:
    """Put the smaller part's tensors in place of the part's, in `tensors`."""
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if site.units.carry is not None:
        new = site.units.carry(own, kept)
    else:
        gone = [
            place
            for unit in range(site.units.count)
            if unit not in set(kept)
            for place in site.units.places(unit)
        ]
        new = own | {
            name: _cut(own[name], [place for place in gone if place.parameter == name])
            for name in {place.parameter for place in gone}
        }
    for name in own:
        del tensors[prefix + name]
    tensors |= {prefix + name: tensor for name, tensor in new.items()}


def _cut(tensor: Tensor, gone: Sequence[Place]) -> Tensor:
    """Without these indices."""
    for dim in range(tensor.ndim):
        stays = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
        for place in gone:
            if place.dim == dim:
                stays[place.first : place.first + place.size] = False
        tensor = tensor.index_select(dim, stays.nonzero().flatten())
    return tensor


def _layers(config: GPTConfig, patches: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """`model.layers` with a patch for each layer; equal neighbours together."""
    if config.layers is None:
        trees = [patches.get(i, {}) for i in range(config.n_layer)]
    else:
        former = [encode(block) for block in config.blocks()]
        trees = [merge(tree, patches.get(i, {})) for i, tree in enumerate(former)]
    found: list[dict[str, Any]] = []
    for tree in trees:
        if found and found[-1]["block"] == tree:
            found[-1]["repeat"] += 1
        else:
            found.append({"repeat": 1, "block": tree})
    return found


@torch.no_grad()
def difference(model: GPT, smaller: GPT, gone: Gone, ids: Tensor) -> float:
    """Largest difference of logits between `model` with the units silenced and the smaller one.

    In fp64, where a device has it; `model` is silenced, and of no use after that.
    """
    silence(model, gone)
    there = ids.to(next(model.parameters()).device)
    other = copy.deepcopy(smaller)
    if there.device.type != "mps":
        model, other = model.double(), other.double()
    with evaluating(model), evaluating(other):
        return float((model(there) - other(there)).abs().max())
