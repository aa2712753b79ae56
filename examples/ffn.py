"""Experts that nobody balances, and experts with a balance loss.

    python examples/ffn.py [--steps 300]

Points belong to four groups, and each group has a linear map of its own to learn. A mixture of
eight experts, of which each point takes one, could give every group its own; but the router begins
with a liking for one expert, and those that nobody asks never learn to be worth asking. The balance
loss gets them asked. `busiest` is the capacity factor it would take to drop nothing: the busiest
expert's tokens over an even share, 8 when one expert does it all.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.ffn.moe import MoeConfig
from espalier.nn.slots import Dims, reset
from espalier.nn.state import Pass

WIDTH, GROUPS = 16, 4
DIMS = Dims(n_layer=1, n_embd=WIDTH, n_head=1, block_size=64, vocab_size=1, residual_std=0.1)


def points(rows: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (rows, 64, width) round one of four centres, and what that group's map makes of it."""
    fixed = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(GROUPS, WIDTH, generator=fixed)
    maps = torch.randn(GROUPS, WIDTH, WIDTH, generator=fixed) / WIDTH**0.5
    group = torch.randint(GROUPS, (rows, 64), generator=draw)
    x = centres[group] + torch.randn(rows, 64, WIDTH, generator=draw)
    x[..., 0] = 1.0
    return x, torch.einsum("btij,btj->bti", maps[group], x)


def learn(balance: float, steps: int) -> tuple[float, float]:
    """Mean squared error at the end, and the busiest expert's tokens over an even share."""
    part = MoeConfig(experts=8, top=1, width=16, balance=balance).build(DIMS, 0)
    reset(part, 0)
    with torch.no_grad():
        part.get_parameter("router.choose.weight").mul_(0.1)[0, 0] = 2.0
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(part.parameters(), lr=1e-2)
    busiest = loss = torch.zeros(())
    for _ in range(steps):
        x, wanted = points(8, draw)
        now = Pass(torch.arange(64).expand(8, -1), listening=True)
        optimizer.zero_grad()
        loss = F.mse_loss(part(x, now), wanted)
        (loss + sum(now.losses.values())).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        busiest = (now.told or {})["expert capacity"][0]
    return loss.item(), busiest.item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(arguments)
    print(f"{'balance loss':<14} {'error':>7} {'busiest':>8}")
    for balance in (0.0, 0.1, 1.0):
        error, busiest = learn(balance, args.steps)
        print(f"{balance:<14} {error:>7.3f} {busiest:>8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
