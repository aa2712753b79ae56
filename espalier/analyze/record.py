"""What goes into and comes out of modules, by path, while a model runs; it changes no bit of it.

A module that is called several times in a pass (shared layers, a second pass of feedback) is heard
under its path, then `path#2`, `path#3` …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from espalier.data.loader import pairs
from espalier.data.tokens import Tokens
from espalier.nn.gpt import GPT
from espalier.nn.slots import Part
from espalier.nn.state import at
from espalier.train.hearing import Hearing

Hear = Callable[[str, tuple[Any, ...], Any], None]
"""called with (path, inputs, output)"""

TOGETHER = 2048  # tokens in one pass


@contextmanager
def listening(model: GPT, paths: Mapping[str, Hear]) -> Iterator[None]:
    """While it lasts, each call of a module at one of `paths` is heard."""
    calls: Counter[str] = Counter()

    def hook(path: str, hear: Hear) -> Callable[..., None]:
        def heard(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            hear(counted(calls, path), inputs, output)

        return heard

    with ExitStack() as stack:
        anew = model.trunk.register_forward_pre_hook(lambda module, inputs: calls.clear())
        stack.callback(anew.remove)
        for path, hear in paths.items():
            handle = model.get_submodule(path).register_forward_hook(hook(path, hear))
            stack.callback(handle.remove)
        yield


def counted(calls: Counter[str], path: str) -> str:
    """The name of one more call: `path`, then `path#2` ..."""
    calls[path] += 1
    return path if calls[path] == 1 else f"{path}#{calls[path]}"


def places(model: GPT, only: str = "*") -> list[str]:
    """Paths of the parts below the model, those that fit the pattern `only` (as file names do)."""
    named = (path for path, module in model.named_modules() if path and isinstance(module, Part))
    return [path for path in named if fnmatchcase(path, only)]


def tensors(path: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of an output; of several, each under `path.NUMBER`."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
    elif isinstance(output, (tuple, list)):
        for number, one in enumerate(output):
            yield from tensors(f"{path}.{number}", one)


@contextmanager
def plainly(model: GPT) -> Iterator[None]:
    """Parts with a `score` take their reference path, in which it is called."""
    fused = [m for m in model.modules() if hasattr(m, "score") and getattr(m, "fused", False)]
    try:
        for module in fused:
            module.fused = False  # type: ignore[assignment]
        yield
    finally:
        for module in fused:
            module.fused = True  # type: ignore[assignment]


def batches(
    tokens: Tokens, starts: NDArray[np.int64], block_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The windows at `starts`, some at a time: inputs and next tokens (rows, block)."""
    rows = max(1, TOGETHER // block_size)
    for first in range(0, len(starts), rows):
        inputs, targets = pairs(tokens, starts[first : first + rows], block_size)
        yield inputs.to(device), targets.to(device)


@torch.no_grad()
def run(
    model: GPT, tokens: Tokens, starts: NDArray[np.int64], block_size: int
) -> dict[str, list[float]]:
    """Pass the windows at `starts` through the model; what parts told, each figure by layer."""
    device, hearing = next(model.parameters()).device, Hearing()
    training = model.training
    model.eval()
    try:
        for ids, _ in batches(tokens, starts, block_size, device):
            now = at(ids, listening=True)
            model(ids, now)
            hearing.add(now.told or {}, len(ids))
    finally:
        model.train(training)
    return hearing.take() if len(starts) else {}
