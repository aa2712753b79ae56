"""The residual stream of any model: where it can be read, and what is added to it on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from espalier.analyze import record
from espalier.nn.attend import Attend
from espalier.nn.gpt import GPT
from espalier.nn.state import Pass, at

STACK = "trunk.stack"
EMBED = "embed"  # the stream before the first layer, positions included


@dataclass
class Stream:
    """One pass. `points`: the stream (batch, time, d) at `embed`, then after each call of a layer.

    The last point is what the trunk's norm reads; a stack that makes something else of its layers'
    outputs (mixtures, confidences, feedback) has it as `trunk.stack`. `into` is what each call of a
    layer was given.
    """

    now: Pass
    logits: Tensor
    points: dict[str, Tensor] = field(default_factory=dict)
    into: dict[str, Tensor] = field(default_factory=dict)


def layers(model: GPT) -> list[str]:
    """Paths of the stack's layers, each once, however often a pass calls it."""
    blocks = {id(block) for block in model.get_submodule(f"{STACK}.blocks").children()}
    return [path for path, module in model.named_modules() if id(module) in blocks]


def mixers(model: GPT) -> list[str]:
    """Paths of what has attention weights, in the model's order."""
    stack = model.get_submodule(STACK)
    named = stack.named_modules()
    return [f"{STACK}.{path}" for path, part in named if isinstance(part, Attend)]


def parts(model: GPT) -> list[str]:
    """Paths of attention, feed-forward parts and cortical neurons, wherever they stand in layers.

    By the role that the path's end names: `attention`, `ffn`, `neurons.N`.
    """

    def writes(path: str) -> bool:
        words = path.split(".")
        return words[-1] in ("attention", "ffn") or (words[-2] == "neurons" and words[-1].isdigit())

    return [path for path in record.places(model, f"{STACK}.*") if writes(path)]


@torch.no_grad()
def read(model: GPT, ids: Tensor) -> Stream:
    """Pass `ids` (batch, time) and keep the stream."""
    found = Stream(at(ids), torch.empty(0))
    last: dict[str, Tensor] = {}

    def hear(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        found.into[path], found.points[path] = inputs[0], output

    def whole(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        last[EMBED], last[STACK] = inputs[0], output

    with record.listening(model, {**dict.fromkeys(layers(model), hear), STACK: whole}):
        found.logits = model(ids, found.now)
    found.points = {EMBED: last[EMBED], **found.points}
    if next(reversed(found.points.values())) is not last[STACK]:
        found.points[STACK] = last[STACK]
    return found


def unembed(model: GPT, x: Tensor, now: Pass) -> Tensor:
    """Logits of the stream `x`, as if the layers ended there."""
    return model.head(x if model.trunk.norm is None else model.trunk.norm(x, now))
