"""A model of another design at equal cost: what an honest comparison holds a new part against.

Rule: depth, the width of a head and all parts stay as the given configuration says. First `n_embd`
is the multiple of the head's width whose cost comes nearest, with the ffn at the width that follows
from it; then the width of the ffn, the same in all layers, takes up what is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from espalier.config import refine
from espalier.cost import count
from espalier.errors import ConfigError
from espalier.nn.gpt import GPTConfig, sketch

By = Literal["params", "flops"]


@dataclass(frozen=True)
class Matched:
    """A configuration whose cost is as near to `target` as the rule can bring it."""

    config: GPTConfig
    cost: int
    target: int

    @property
    def residual(self) -> float:
        """How far off, as a share of the target; below 0 the match costs less."""
        return self.cost / self.target - 1


def match(config: GPTConfig, like: GPTConfig, by: By) -> GPTConfig:
    """`config` with the widths at which it costs what `like` costs. Raises ConfigError."""
    return solve(config, like, by).config


def solve(config: GPTConfig, like: GPTConfig, by: By) -> Matched:
    """`match`, with what is left over.

    `params` counts all parameters, `flops` operations per token of a training step over a full
    window. Vocabulary and window are those of `like`.
    """
    target = cost(like, by)
    flexible = hasattr(getattr(config.block, "ffn", None), "width")
    free: dict[str, Any] = {"block": {"ffn": {"width": None}}} if flexible else {}
    sizes = {"vocab_size": like.vocab_size, "block_size": like.block_size}
    config = refine(config, {**sizes, **free}, "model")
    head = config.dims().head_width

    def resized(heads: int) -> GPTConfig:
        return refine(config, {"n_head": heads, "n_embd": heads * head}, "model")

    least = cost(resized(1), by)
    if least > target:
        raise ConfigError(
            f"no {by} to match: one head of width {head} already costs {least:,}, more than "
            f"{target:,}; take fewer layers or narrower heads"
        )
    heads = nearest(lambda n: cost(resized(n), by), target)
    if not flexible:
        return Matched(resized(heads), cost(resized(heads), by), target)

    def widened(width: int, heads: int = heads) -> GPTConfig:
        return refine(resized(heads), {"block": {"ffn": {"width": width}}}, "model")

    if cost(widened(1), by) > target:  # no ffn is narrow enough: one head fewer, a wider ffn
        heads -= 1
    width = nearest(lambda n: cost(widened(n, heads), by), target)
    found = widened(width, heads)
    return Matched(found, cost(found, by), target)


def cost(config: GPTConfig, by: By) -> int:
    """Parameters in all, or operations per token of a training step over a full window."""
    model = sketch(config)
    if by == "params":
        return count.parameters(model).total
    return count.flops(model, config.block_size).train


def nearest(of: Callable[[int], int], target: int) -> int:
    """The n from 1 on whose `of(n)`, which grows with n, is nearest to the target.

    A secant search: costs are nearly linear in a width, and each takes a model to count.
    """
    of = cache(of)
    low, high = 1, 2
    while of(high) < target:
        step = (target - of(high)) * (high - low) // (of(high) - of(low))
        low, high = high, high + step + 1
    while high - low > 1:
        guess = low + (target - of(low)) * (high - low) // (of(high) - of(low))
        middle = min(max(guess, low + 1), high - 1)
        low, high = (middle, high) if of(middle) <= target else (low, middle)
    return min((low, high), key=lambda n: abs(of(n) - target))
