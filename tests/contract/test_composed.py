"""Parts put together at random, parts within parts: what can be built trains and decodes.

`make composed` tries many more; `composed(SEED)` says what a number stands for. A model that cannot
be is refused in words, by a ConfigError.
"""

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from espalier.config import Config, PartConfig, decode, encode, names, resolve
from espalier.errors import ConfigError
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import at
from espalier.tree import merge, override
from tests.contract.harness import BASE, IDS, decodes, exemptions, rounds, slot_bases

Tree = dict[str, Any]
SLOTS = {base.slot: base for base in slot_bases() if not base.slot.endswith("front")}
SEEDS = range(int(os.environ.get("ESPALIER_COMPOSED", "40")))


def choices(slot: str) -> list[Tree]:
    """Every part that may stand there, in each of its variants."""
    found = []
    for name in names(SLOTS[slot]):
        part = resolve(SLOTS[slot], name)()
        found += [{"name": name, **part.small, **fields} for fields in ({}, *part.variants)]
    return found


CHOICES = {slot: choices(slot) for slot in SLOTS}


def places(value: Config, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a part stands, parts within parts too, and its slot."""
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if isinstance(inner, PartConfig):
            yield from ((path + name, slot) for slot in SLOTS if isinstance(inner, SLOTS[slot]))
        if isinstance(inner, Config):
            yield from places(inner, f"{path}{name}.")


def composed(seed: int) -> tuple[list[Any], GPTConfig]:
    """What was chosen, and the model of it. Raises ConfigError."""
    chance, chosen = random.Random(seed), []
    tree = encode(decode(GPTConfig, merge(BASE, {"n_layer": chance.choice([2, 3])})))
    for _ in range(chance.randint(2, 8)):
        here = [*places(decode(GPTConfig, tree)), ("steering", "espalier.nn.steering")]
        path, slot = chance.choice(here)
        part = chance.choice(CHOICES[slot])
        chosen.append({path: part})
        tree = encode(decode(GPTConfig, override(tree, path, part)))
    if chance.random() < 0.3:
        cycle = [_run(chance) for _ in range(chance.randint(1, 2))]
        chosen.append({"cycle": cycle})
        tree = override(tree, "cycle", cycle)
    tree |= {"bias": chance.random() < 0.8, "dropout": chance.choice([0.0, 0.1])}
    return chosen, decode(GPTConfig, tree)


def _run(chance: random.Random) -> Tree:
    slot = chance.choice(["attention", "ffn", "norm", "block"])
    part = chance.choice(CHOICES[f"espalier.nn.{slot}"])
    return {"block": part if slot == "block" else {slot: part}}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_put_together_at_random_works_or_is_refused(seed: int) -> None:
    try:
        model = make(composed(seed)[1], 0)
    except ConfigError:
        return
    loss = _loss(model)
    loss.backward()  # type: ignore[no-untyped-call]
    lawful = exemptions(model)
    assert loss.isfinite() or "finite" in lawful
    with torch.autocast("cpu", torch.bfloat16):
        _loss(model).backward()  # type: ignore[no-untyped-call]
    if "steps" not in lawful and not rounds(model):  # which may fall to either side of a tie
        decodes(model.double().eval())


def _loss(model: GPT) -> torch.Tensor:
    now = at(IDS)
    logits = model(IDS, now)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten())
    return loss + sum(now.losses.values())
