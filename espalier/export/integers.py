"""Weights that a model rounds, as the whole numbers that a circuit holds, and vectors to test it.

Of each rounded weight stand in the file its whole numbers and `NAME.step`, one number or one for
each row: the weight is whole * step. Values of -1, 0 and 1 stand five in a byte (3^5 = 243), value
i of a group as 3^i (value + 1), the last group filled up with zeros. All else is fp32.

The vectors are of one pass: for each rounded map the whole numbers that come in and their step, the
exact sums of products of whole numbers, and what goes out: sum * input step * weight step + bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.rounding import Codes, Rounded
from espalier.nn.slots import Part

TOKENS, ROWS = 32, 4  # of the pass; rows of it that are kept of each map
PLACES = torch.tensor([1, 3, 9, 27, 81])
CLOSE = 1e-4  # of the largest output: the model multiplies in floating point


def rounded(model: GPT) -> dict[str, Part]:
    """The parts whose weight is whole numbers, by path; UserError where there are none."""
    found = {
        path: part
        for path, part in model.named_modules()
        if isinstance(part, Part) and "weight" in part.stored
    }
    if not found:
        raise UserError(
            "no weight of this model is rounded to whole numbers: train it with "
            "model.block.ffn.linear=fake_quantised (level 1) or bitnet, and so its attention's"
        )
    return found


def tensors(model: GPT, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is written, and for each rounded weight its shape and how it is packed."""
    found, about = dict(weights), dict[str, Any]()
    for path, part in rounded(model).items():
        whole, step = cast(Rounded, part).integers()
        name, three = f"{path}.weight", part.stored["weight"] < 2
        found[name] = packed(whole) if three else smallest(whole)
        found[f"{name}.step"] = step.detach().float().contiguous()
        about[name] = {"shape": list(whole.shape), "packed": "five in a byte" if three else None}
    return found, about


def weight(found: Mapping[str, Tensor], about: Mapping[str, Any], name: str) -> Tensor:
    """A rounded weight again, in fp32."""
    shape, whole = about[name]["shape"], found[name]
    if about[name]["packed"]:
        whole = unpacked(whole, shape)
    return whole.float() * found[f"{name}.step"]


def packed(whole: Tensor) -> Tensor:
    """Values of -1, 0 and 1, five in a byte."""
    flat = whole.flatten().to(torch.int64) + 1
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % len(PLACES)), value=1)
    return (flat.view(-1, len(PLACES)) * PLACES).sum(1).to(torch.uint8)


def unpacked(some: Tensor, shape: list[int]) -> Tensor:
    """The values again."""
    flat = some.to(torch.int64)[:, None] // PLACES % 3 - 1
    return flat.flatten()[: torch.Size(shape).numel()].view(shape)


def smallest(whole: Tensor) -> Tensor:
    """Whole numbers in the narrowest type that holds them."""
    for kind in (torch.int8, torch.int16, torch.int32):
        if whole.abs().max() <= torch.iinfo(kind).max:
            return whole.to(kind).contiguous()
    return whole.to(torch.int64).contiguous()


@torch.no_grad()
def vectors(model: GPT, block_size: int, vocab_size: int) -> tuple[dict[str, Tensor], float]:
    """Test vectors, and the largest share by which an output differs from the exact sums.

    UserError where one differs by more than rounding of floating point can explain.
    """
    ids = torch.randint(vocab_size, (1, min(TOKENS, block_size)), generator=_luck())
    maps = {path: part for path, part in rounded(model).items() if path != "trunk.embed"}
    logits, seen = _watched(model, maps, ids)
    found, worst = {"ids": ids, "logits": logits}, 0.0
    for path, (x, y) in seen.items():
        inputs = cast(Rounded, maps[path]).inputs(x)
        if inputs is None:
            continue
        sums, off = _checked(maps[path], inputs, y)
        worst = max(worst, off)
        found |= {f"{path}.x": smallest(inputs.whole), f"{path}.x.step": inputs.step.contiguous()}
        found |= {f"{path}.sum": sums, f"{path}.y": y}
    if worst > CLOSE:
        raise UserError(f"outputs differ from the exact sums by {worst:.1e} of the largest: a bug")
    return found, worst


def _watched(
    model: GPT, maps: Mapping[str, Part], ids: Tensor
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The logits, and some rows of what came into and out of each map at its first call."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str, part: Part) -> RemovableHandle:
        def keep(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            x, y = (t.flatten(0, -2)[:ROWS].contiguous() for t in (given[0], made))
            seen.setdefault(path, (x, y))

        return part.register_forward_hook(keep)

    hooks = [watch(path, part) for path, part in maps.items()]
    try:
        return model.eval()(ids), seen
    finally:
        for hook in hooks:
            hook.remove()


def _checked(part: Part, inputs: Codes, y: Tensor) -> tuple[Tensor, float]:
    """The exact sums, and how far the output is from them."""
    whole, step = cast(Rounded, part).integers()
    sums = inputs.whole.to(torch.int64) @ whole.to(torch.int64).T
    bias = getattr(part, "bias", None)
    exact = sums.double() * inputs.step.double() * step.double().reshape(1, -1)
    exact = exact if bias is None else exact + bias.double()
    off = (exact - y.double()).abs().max() / exact.abs().max().clamp(min=1e-12)
    return smallest(sums), float(off)


def _luck() -> torch.Generator:
    return torch.Generator().manual_seed(0)
