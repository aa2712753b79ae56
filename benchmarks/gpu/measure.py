"""What the sections share: recipes made small, differences, medians, the device's clock."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from espalier import experiment
from espalier.config import digest
from espalier.errors import ConfigError
from espalier.experiment import Experiment
from espalier.nn.gpt import sketch

Row = dict[str, Any]

# Small enough for a moment; the first that a recipe's parts allow.
_SIBLINGS = (
    ("model.n_layer=2", "model.n_head=6", "model.n_embd=192", "model.block_size=64"),
    ("model.n_layer=2", "model.n_head=4", "model.n_embd=128", "model.block_size=64"),
    ("model.n_layer=2", "model.block_size=64"),
    ("model.block_size=64",),
)


def sibling(recipe: str, *overrides: str) -> Experiment:
    """The recipe with everything kept but its size. Raises ConfigError where none is allowed."""
    for size in _SIBLINGS:
        try:
            plan = experiment.load(
                recipe, [*size, "model.vocab_size=256", "model.dropout=0", *overrides]
            )
            sketch(plan.model)
        except ConfigError as error:
            problem = error
        else:
            return plan
    raise problem


def siblings(most: int | None) -> Iterator[tuple[str, Callable[[], Experiment]]]:
    """Shipped recipes (the first `most`) and how to make them small; one model only once."""
    seen = set()
    shipped = [name for name in experiment.shipped() if "-iso-" not in name]  # other sizes
    for recipe in shipped[:most]:
        model = recipe
        with contextlib.suppress(Exception):  # whoever makes it will say what is wrong
            model = digest(sibling(recipe).model)
        if model not in seen:
            seen.add(model)
            yield recipe, partial(sibling, recipe)


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest, over the largest number wanted."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def within(**found: tuple[float, float]) -> Row:
    """Figures, from (difference, most that is right) each; `ok` unless one is more, or NaN."""
    wrong = [name for name, (value, most) in found.items() if not value <= most]
    why = {"why": f"too large: {', '.join(wrong)}"} if wrong else {}
    return {**{name: value for name, (value, _) in found.items()}, "ok": not wrong, **why}


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str, blocks: Sequence[int]) -> float:
    """Of one call: the median over blocks of so many calls, each block waited for once."""
    times = []
    for calls in blocks:
        wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def peak_memory(device: str) -> int:
    """Most bytes of the device's memory in use at once; of the process on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attempt(name: str, work: Callable[[], Row]) -> Row:
    """The row that `work` makes; its failure is a row too."""
    try:
        return {"name": name, **work()}
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return {"name": name, "ok": False, "why": f"{type(error).__name__}: {first[:200]}"}
