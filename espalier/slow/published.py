"""Speeds that others have published for a model on a device, each with its source."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Training tokens per second on one device."""

    model: str
    parameters: int
    block_size: int
    device: str
    """a pattern of its name"""
    tokens_per_s: float
    source: str


FIGURES = (
    Figure(
        "GPT-2 124M",
        124_000_000,
        1024,
        "A100",
        107e3,
        "nanoGPT's README: 600,000 steps of 491,520 tokens in 4 days on 8 A100",
    ),
    Figure(
        "GPT-2 124M",
        124_000_000,
        1024,
        "H100|H200",
        475e3,
        "llm.c by modded-nanogpt's README: 10.26 billion tokens in 45 minutes on 8 H100",
    ),
    Figure("BioGPT 294M", 294_000_000, 1024, "4090", 24.5e3, "BioGPT's own documentation"),
)


def compare(device: str, parameters: int, block_size: int, speed: float) -> Iterator[str]:
    """A line for each figure of such a model (within 5 %) on such a device."""
    for figure in FIGURES:
        near = abs(parameters / figure.parameters - 1) < 0.05 and block_size == figure.block_size
        if near and re.search(figure.device, device):
            yield (
                f"{speed / figure.tokens_per_s:.2f} times the published "
                f"{figure.tokens_per_s:,.0f} tokens/s of {figure.model} ({figure.source})"
            )
