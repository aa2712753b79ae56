"""Causal attention in bf16 on a CPU, both ways: torch's fused one, plain operations, ours.

    python benchmarks/attention_fallback.py

Where no kernel of ours can be built, `espalier.native.composed` picks the faster of
torch's two ways; this is what it goes by. One thread, interleaved rounds, medians.
"""

import functools
import math

import torch
from rounds import Step, interleaved, page
from torch import Tensor
from torch.nn import functional as F

from espalier.native import attention, build, composed

SIZES = [(32, 4, 64, 32), (8, 6, 256, 64), (2, 12, 512, 64), (1, 12, 1024, 64)]


def fused(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def plain(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    time = q.shape[2]
    bias = q.new_full((time, time), -math.inf).triu(1)
    return composed.attend(q, k, v, bias, dropout)


def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return attention.attend(q, k, v, q.shape[-1] ** -0.5, None).transpose(1, 2)


def both_ways(size: tuple[int, int, int, int], attend: object) -> Step:
    batch, heads, time, width = size
    qkv = torch.randn(batch, time, 3 * heads, width).bfloat16().requires_grad_()

    def step() -> None:
        q, k, v = (x.transpose(1, 2) for x in qkv.split(heads, 2))
        out = attend(q, k, v)
        torch.autograd.grad(out, qkv, torch.ones_like(out))

    return step


def main() -> None:
    drop = {"dropout": 0.2}
    ways = {
        "fused": fused,
        "plain": plain,
        "fused, dropout": functools.partial(fused, **drop),
        "plain, dropout": functools.partial(plain, **drop),
    } | ({"ours": ours} if build.prepare(attention) else {})
    lines = [f"| batch, heads, time, width | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]
    for size in SIZES:
        sides = {name: both_ways(size, attend) for name, attend in ways.items()}
        got = interleaved(sides, threads=(1,), rounds=5, steps=1)
        shown = " | ".join(f"{1000 * got[name][0]:.1f} ms" for name in ways)
        lines.append(f"| {', '.join(map(str, size))} | {shown} |")
    page("attention_fallback", "Attention for training in bf16 on a CPU", lines)


if __name__ == "__main__":
    main()
