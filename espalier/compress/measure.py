"""What a pruned model holds, and how fast it is: counted, and timed beside the unpruned one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from espalier.compress import storage
from espalier.compress.prunable import prunable, zeros
from espalier.compress.shrink import dead
from espalier.compress.slots import Pruned
from espalier.cost import count
from espalier.cost.products import operations
from espalier.engine.generate import Options, evaluating, generate
from espalier.engine.sampling import Sampling
from espalier.engine.weights import pack
from espalier.nn.gpt import GPT, sketch
from espalier.train.checkpoint import tensors

PROMPT, FORWARD = 8, 2048  # tokens


def holdings(pruned: Pruned, original: int, include: Collection[str]) -> dict[str, Any]:
    """Parameters, bytes and operations. `original`: prunable weights of the unpruned model.

    The sparse bytes and operations are what storage and kernels that skip zeros would need; the
    dense ones are what is there.
    """
    model, weights = pruned.model, prunable(pruned.model, include)
    gone = zeros(weights.values())
    total = sum(p.numel() for p in model.parameters())
    drawn, window = sketch(pruned.config), pruned.config.block_size
    work, of = count.flops(drawn, window).forward, operations(drawn, window)
    skipped = sum(of[name] * zeros([w]) / w.numel() for name, w in weights.items())
    held = tensors(model)
    silent = dead(model)
    by_kind: dict[str, int] = {}
    for where, units in silent.items():
        by_kind[where.kind] = by_kind.get(where.kind, 0) + len(units)
    left = sum(w.numel() for w in weights.values()) - gone
    return {
        "sparsity": 1 - left / original,
        "parameters": {
            "total": total,
            "live": live(model, window),
            "prunable": left + gone,
            "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
        },
        "bytes": {
            "dense": storage.size(held),
            "sparse": storage.size(storage.pack(held, weights)),
        },
        "flops_per_token": {"dense": work, "skipping_zeros": work - round(skipped)},
        "dead_units": by_kind,
    }


def live(model: GPT, block_size: int) -> int:
    """Parameters that a pass really uses: those that a gradient reaches."""
    device = next(model.parameters()).device
    ids = torch.arange(min(block_size, 8), device=device)[None] % 2
    with torch.enable_grad(), evaluating(model):
        model(ids).sum().backward()  # type: ignore[no-untyped-call]
    used = sum(p.numel() for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)
    return used


def speed(pruned: Pruned, unpruned: GPT, rounds: int) -> dict[str, Any]:
    """Tokens per second: decoding one row, and forward over whole windows, in fp32.

    The two models take turns; medians over rounds, and the median of the rounds' own ratios.
    """
    size = pruned.config.block_size
    sides = {"pruned": pruned.model, "unpruned": unpruned}
    found: dict[str, Any] = {"rounds": rounds, "threads": torch.get_num_threads()}
    for what, make in (("decode", _decoder), ("forward", _reader)):
        turns = {name: make(model, size) for name, model in sides.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for turn in turns.values():
            turn()
        for _ in range(rounds):
            for name, turn in turns.items():
                times[name].append(turn())
        pairs = zip(times["pruned"], times["unpruned"], strict=True)
        found[what] = {
            "tokens_per_s": statistics.median(times["pruned"]),
            "unpruned_tokens_per_s": statistics.median(times["unpruned"]),
            "ratio": statistics.median(a / b for a, b in pairs),
        }
    return found


class _decoder:  # noqa: N801
    """Called: decodes one row; tokens per second."""

    def __init__(self, model: GPT, size: int):
        self.model, self.size = pack(model, "float32"), size
        self.prompt = [[0] * min(PROMPT, size // 2)]
        self.new = max(1, min(64, size - len(self.prompt[0])))

    def __call__(self) -> float:
        start = time.perf_counter()
        options = Options(self.new, sampling=Sampling(temperature=0))
        generate(self.model, self.size, self.prompt, options)
        return self.new / (time.perf_counter() - start)


class _reader:  # noqa: N801
    """Called: reads whole windows; tokens per second."""

    def __init__(self, model: GPT, size: int):
        self.model = model
        device = next(model.parameters()).device
        self.ids: Tensor = torch.zeros(
            max(1, FORWARD // size), size, dtype=torch.long, device=device
        )

    @torch.no_grad()
    def __call__(self) -> float:
        start = time.perf_counter()
        with evaluating(self.model):
            self.model(self.ids)
        if self.ids.is_cuda:
            torch.cuda.synchronize()
        return self.ids.numel() / (time.perf_counter() - start)
