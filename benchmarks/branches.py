"""Block-diagonal branches in training: ours against grouped convolution, and against the ideal.

    python benchmarks/branches.py [THREADS ...]

Forward and backward in bf16 autocast with fp32 weights, on 2 or 4 rows of 512 tokens. First one
block-diagonal map d -> 4 d alone; then a whole neuron's branches: causal convolution (5 taps) and
feed-forward, without the norm. `grouped` is `F.conv1d(groups=branches)` on channels-first features,
as the original has it. `ideal` is three dense matrix products of the same number of operations,
nothing else: how many times faster it is than `grouped` is what a map could gain at most. Sides
take turns; medians.
"""

import sys
from collections.abc import Callable
from itertools import product

import torch
from rounds import Step, interleaved, page
from table import Claim
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.native import heap, training
from espalier.nn.cortex.branches import BranchConv, BranchLinear, join
from espalier.nn.slots import Dims, reset
from espalier.nn.state import at

TIME, TAPS = 512, 5
CASES = [(768, 8), (768, 6), (768, 4), (192, 8), (192, 6), (192, 4)]
ROWS = (2, 4)


class Branches(nn.Module):
    """The parts of a neuron that are measured."""

    def __init__(self, d: int, branches: int):
        super().__init__()
        dims = Dims(n_layer=1, n_embd=d, n_head=1, block_size=TIME, vocab_size=1)
        each = d // branches
        self.branches = branches
        self.conv = BranchConv(branches, each, TAPS, dims)
        self.up = BranchLinear(branches, each, 2 * each, dims)
        self.down = BranchLinear(branches, 2 * each, each, dims)
        reset(self, 0)


def ours(part: Branches) -> Callable[[Tensor], Tensor]:
    def forward(a: Tensor) -> Tensor:
        now = at(torch.zeros(a.shape[:2]))
        return join(part.down(F.gelu(part.up(part.conv(a, now), now)), now))

    return forward


def grouped(part: Branches) -> Callable[[Tensor], Tensor]:
    n = part.branches

    def forward(a: Tensor) -> Tensor:
        x = a.mT
        t = F.conv1d(x, part.conv.weight, part.conv.bias, padding=TAPS - 1, groups=n)
        h = F.gelu(F.conv1d(x + t[..., :TIME], part.up.weight[..., None], part.up.bias, groups=n))
        return F.conv1d(h, part.down.weight[..., None], part.down.bias, groups=n).mT

    return forward


def step(part: nn.Module, forward: Callable[[Tensor], Tensor], a: Tensor, grad: Tensor) -> Step:
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            y = forward(a)
        y.backward(grad)
        part.zero_grad()
        a.grad = None

    return run


def ideal(rows: int, d: int, width: int) -> Step:
    """x W, g W^T and x^T g with d * width weights."""
    x, w = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((rows * TIME, d), (d, width)))
    g = torch.randn(rows * TIME, width, dtype=torch.bfloat16)

    def run() -> None:
        _ = x @ w, g @ w.T, x.T @ g

    return run


def same(part: Branches, a: Tensor) -> None:
    with torch.no_grad():
        want, got = grouped(part)(a.float()), ours(part)(a.float())
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def alone(rows: int, d: int, branches: int) -> dict[str, Step]:
    """One map d -> 4 d, each side in the layout it works in."""
    dims = Dims(n_layer=1, n_embd=d, n_head=1, block_size=TIME, vocab_size=1)
    part = BranchLinear(branches, d // branches, 4 * d // branches, dims)
    reset(part, 0)
    now = at(torch.zeros(rows, TIME))
    first = torch.randn(rows, d, TIME, dtype=torch.bfloat16, requires_grad=True)
    ours = first.detach().mT.unflatten(2, (branches, -1)).contiguous()

    def conv(x: Tensor) -> Tensor:
        return F.conv1d(x, part.weight[..., None], part.bias, groups=branches)

    def batched(x: Tensor) -> Tensor:
        return part(x, now)

    with torch.no_grad():
        want, got = conv(first.float()).mT, join(batched(ours.float()))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    grads = (
        torch.randn(rows, 4 * d, TIME).bfloat16(),
        torch.randn(*ours.shape[:3], 4 * d // branches),
    )
    return {
        "grouped": step(part, conv, first, grads[0]),
        "ours": step(part, batched, ours.requires_grad_(), grads[1].bfloat16()),
        "ideal": ideal(rows, d, 4 * d // branches),
    }


def whole(rows: int, d: int, branches: int) -> dict[str, Step]:
    """A neuron's branches, (batch, time, d) to (batch, time, d)."""
    part = Branches(d, branches)
    a = torch.randn(rows, TIME, d, dtype=torch.bfloat16, requires_grad=True)
    same(part, a)
    grad = torch.randn_like(a)
    return {
        "grouped": step(part, grouped(part), a, grad),
        "ours": step(part, ours(part), a, grad),
        "ideal": ideal(rows, d, (TAPS + 4) * d // branches),
    }


def main() -> int:
    threads = tuple(int(word) for word in sys.argv[1:]) or (1, 2)
    torch.manual_seed(0)
    heap.keep()
    training.prepare()
    ratios = "grouped / ours | ideal / ours"
    lines = [
        f"| d | branches | tokens | what | grouped ms | ours ms | ideal ms | {ratios} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    gains: dict[str, list[float]] = {}
    most: dict[str, list[float]] = {}
    for what, make in (("map", alone), ("neuron", whole)):
        for (d, branches), rows in product(CASES, ROWS):
            sides = make(rows, d, branches)
            found = {name: time for name, (time, _) in interleaved(sides, threads, 7).items()}
            times = " | ".join(f"{1000 * found[name]:.2f}" for name in sides)
            gain, share = found["grouped"] / found["ours"], found["ideal"] / found["ours"]
            size = f"{d} | {branches} | {rows * TIME}"
            lines.append(f"| {size} | {what} | {times} | {gain:.2f} | {share:.2f} |")
            few = " of 8 branches" if branches == 8 else " of 4 and 6 branches"
            group = f"{what}, width {d}{few if d == 768 else ''}"
            gains.setdefault(group, []).append(gain)
            most.setdefault(group, []).append(found["grouped"] / found["ideal"])
    title = f"Branches in training, bf16, each side at its better of {list(threads)} threads"
    claims = [
        Claim(
            f"block-diagonal {group}, bf16",
            f"grouped convolution (dense products: {_range(most[group])})",
            _range(gains[group]),
            "1.8x",
        )
        for group in gains
    ]
    page("branches", title, lines, claims)
    return 0


def _range(gains: list[float]) -> str:
    return f"{min(gains):.1f}x to {max(gains):.1f}x"


if __name__ == "__main__":
    sys.exit(main())
