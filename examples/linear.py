"""Few bits afterwards, or few bits from the start.

    python examples/linear.py [--steps 400]

A small network learns a curve. Rounding its weights and activations after training costs more the
fewer the bits; training with the rounding in place, its gradient passing straight through, wins
much of that back. The last line has weights of -1, 0 and 1.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.activation.gelu import GeluConfig
from espalier.nn.ffn.mlp import MlpConfig
from espalier.nn.linear.bitnet import BitnetConfig
from espalier.nn.linear.dense import DenseConfig
from espalier.nn.linear.fake_quantised import ActivationGrid, FakeQuantisedConfig, WeightGrid
from espalier.nn.slots import Dims, LinearConfig, Part, reset
from espalier.nn.state import Pass

WIDTH = 16
DIMS = Dims(
    n_layer=1, n_embd=WIDTH, n_head=1, block_size=1, vocab_size=1, std=0.3, residual_std=0.3
)


def bits(count: int) -> LinearConfig:
    return FakeQuantisedConfig(
        weights=WeightGrid(bits=count), activations=ActivationGrid(bits=count)
    )


def network(linear: LinearConfig) -> Part:
    part = MlpConfig(width=64, activation=GeluConfig(), linear=linear).build(DIMS, 0)
    reset(part, 0)
    return part


def curve(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random features of t in [-1, 1], and sin(6 t) in every output."""
    t = torch.rand(256, 1, generator=draw) * 2 - 1
    phases = torch.linspace(0, 3, WIDTH)
    return torch.cos(2 * t + phases), torch.sin(6 * t).expand(-1, WIDTH)


def error(part: nn.Module, draw: torch.Generator) -> Tensor:
    x, wanted = curve(draw)
    return F.mse_loss(part(x, Pass(torch.zeros(1, 1, dtype=torch.long))), wanted)


def learn(linear: LinearConfig, steps: int) -> Part:
    part, draw = network(linear), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(part.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        error(part, draw).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return part


@torch.no_grad()
def measured(part: Part, linear: LinearConfig | None = None) -> float:
    """The error of a part, or of its weights in maps of another kind."""
    if linear is not None:
        other = network(linear)
        other.load_state_dict(part.state_dict())
        part = other
    return error(part, torch.Generator().manual_seed(2)).item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args(arguments)
    plain = learn(DenseConfig(), args.steps)
    print(f"fp32: {measured(plain):.4f}\n\n{'bits':<6} {'afterwards':>10} {'in training':>11}")
    kinds = {"8": bits(8), "4": bits(4), "3": bits(3), "2": bits(2), "1.58": BitnetConfig()}
    for name, linear in kinds.items():
        after, during = measured(plain, linear), measured(learn(linear, args.steps))
        print(f"{name:<6} {after:>10.4f} {during:>11.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
