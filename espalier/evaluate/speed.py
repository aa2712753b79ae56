"""How fast a model reads and writes, at stated sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from espalier.engine.generate import Options, evaluating, generate
from espalier.engine.sampling import Sampling
from espalier.engine.weights import Weights, pack
from espalier.errors import UserError
from espalier.evaluate.memory import Peak
from espalier.nn.gpt import GPT
from espalier.nn.state import at


@dataclass(frozen=True)
class Sizes:
    """What is measured. Raises UserError for sizes without a meaning."""

    prompt: int
    """tokens that are read in one pass"""
    new: int
    """tokens that are written after them, one at a time through the cache"""
    rows: int = 1
    rounds: int = 5

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1:
            raise UserError("--prompt-tokens, --new-tokens, --rows and --rounds are 1 or more")

    @classmethod
    def fitting(cls, block_size: int, prompt: int | None, new: int | None, rows: int) -> Sizes:
        """As asked; left out, half of the block is read and up to 64 tokens are written."""
        prompt = max(1, block_size // 2) if prompt is None else prompt
        new = max(1, min(64, block_size - prompt)) if new is None else new
        if prompt + new > block_size:
            raise UserError(
                f"--prompt-tokens {prompt} and --new-tokens {new}: the model reads {block_size}"
            )
        return cls(prompt, new, rows)


def measure(model: GPT, block_size: int, sizes: Sizes, weights: Weights) -> dict[str, Any]:
    """Medians over rounds, after one that warms up: tokens per second and the peak of memory.

    Reading is the model's own pass with the logits of the last token; writing is what `sample`
    does, with its packed weights, the reading of the prompt taken off.
    """
    device = next(model.parameters()).device
    fast = pack(model, weights)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(_vocabulary(model), (sizes.rows, sizes.prompt), generator=generator)
    prompts = ids.tolist()
    read: list[float] = []
    write: list[float] = []
    with Peak(device) as peak:
        for _ in range(1 + sizes.rounds):
            read.append(_seconds(device, lambda: _read(model, ids.to(device))))
            first = _seconds(device, lambda: _write(fast, block_size, prompts, 1))
            whole = _seconds(device, lambda: _write(fast, block_size, prompts, 1 + sizes.new))
            write.append(max(whole - first, 1e-9))
    return {
        **asdict(sizes),
        "prefill_tokens_per_s": ids.numel() / statistics.median(read[1:]),
        "decode_tokens_per_s": sizes.rows * sizes.new / statistics.median(write[1:]),
        "weights": weights,
        "peak_bytes": peak.bytes,
        "threads": torch.get_num_threads(),
    }


@torch.no_grad()
def _vocabulary(model: GPT) -> int:
    with evaluating(model):
        nothing = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
        return int(model(nothing).shape[-1])


@torch.no_grad()
def _read(model: GPT, ids: torch.Tensor) -> None:
    with evaluating(model):
        model.head(model.trunk(ids, at(ids))[:, -1])


def _write(model: GPT, block_size: int, prompts: list[list[int]], new: int) -> None:
    generate(model, block_size, prompts, Options(new, sampling=Sampling(temperature=0)))


def _seconds(device: torch.device, work: Callable[[], None]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
