"""What each part of a model costs at one stated size, counted from a sketch round it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from espalier.config import PartConfig, decode, encode
from espalier.nn import slots
from espalier.nn.gpt import GPTConfig, sketch
from espalier.nn.slots import Part
from espalier.tree import override

# GPT-2's smallest model, one layer of it; a stack has all twelve.
SIZE = {"n_layer": 1, "n_embd": 768, "n_head": 12, "block_size": 1024, "vocab_size": 50304}
DEPTH = 12
WHERE = "one layer of GPT-2's smallest size (a stack: its 12 layers), 1,024 tokens"
LAYER = "trunk.stack.blocks.0"
PLACES = {
    "front": "trunk.front",
    "embed": "trunk.embed",
    "steering": f"{LAYER}.steering",
    "position": "trunk.position",
    "stack": "trunk.stack",
    "head": "head",
    "block": LAYER,
    "norm": f"{LAYER}.norm_1",
    "attention": f"{LAYER}.attention",
    "score": f"{LAYER}.attention.score",
    "ffn": f"{LAYER}.ffn",
    "activation": f"{LAYER}.ffn.activation",
    "linear": f"{LAYER}.ffn.up",
}


@dataclass(frozen=True)
class Facts:
    """Of a part with its defaults, in the first place that a model has for it."""

    parameters: int
    flops: int
    """of its matrix products, for one token of a full window"""
    special: Mapping[str, float]
    """functions beside + and *, evaluations per element"""
    passes: int
    """how often a row is read before its last result is known"""
    steps: str
    """why it cannot go on from a cache; empty where it can"""
    compiles: str
    """why it does not compile to one graph; empty where it does"""


def bases() -> dict[str, type[PartConfig]]:
    """The slots of a model, by name."""
    found = [
        kind
        for kind in vars(slots).values()
        if isinstance(kind, type) and issubclass(kind, PartConfig) and kind.places
    ]
    return {base.slot.rpartition(".")[2]: base for base in found}


def facts(slot: str, name: str) -> Facts:
    """Count a part of the slot; needs no memory for its tensors."""
    sizes = SIZE | ({"n_layer": DEPTH} if slot == "stack" else {})
    tree = encode(decode(GPTConfig, sizes))
    for path in bases()[slot].places[-1:]:
        tree = override(tree, path, {"name": name})
    model = sketch(decode(GPTConfig, tree)).eval()
    window = SIZE["block_size"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, window, dtype=torch.long, device="meta"))
    part = model.get_submodule(PLACES[slot])
    counts = counter.get_flop_counts().get(f"{type(model).__name__}.{PLACES[slot]}", {})
    parts = [inner for inner in part.modules() if isinstance(inner, Part)]
    own = [one for one in parts if one is part or not _of_another(slot, one)]
    exempt = {law: why for one in parts for law, why in one.exempt.items()}
    return Facts(
        parameters=sum(p.numel() for p in part.parameters()),
        flops=sum(counts.values()) // window,
        special=_summed(own),
        passes=max(one.passes for one in own),
        steps=exempt.get("steps", ""),
        compiles=exempt.get("compiles", ""),
    )


def _of_another(slot: str, part: Part) -> bool:
    """Does another slot offer it, so that what it costs is told there?"""
    folder = type(part).__module__.rpartition(".")[0]
    return any(folder == base.slot for name, base in bases().items() if name != slot)


def _summed(parts: Sequence[Part]) -> Mapping[str, float]:
    """The functions of one part of each kind: those of a kind work side by side."""
    found: dict[str, float] = {}
    for special in {type(one): one.special for one in parts}.values():
        for name, count in special.items():
            found[name] = found.get(name, 0) + count
    return found
