"""One neuron separates XOR, if its activation is not monotone.

    python examples/xor.py [--seeds 5] [--steps 1200]

The neuron is activation(w1 a + w2 b + bias), read by a logistic unit. WiggleGPT's oscillating
activation does it, and so does anything that turns back: z^2, or gelu with its shallow dip. It is
the turn that does it, not the sine. tanh, which never turns, cannot. Losses are mean binary
cross-entropies in nats; guessing is 0.693.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.activation.oscillating import Oscillating
from espalier.nn.state import Pass

INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
WANTED = torch.tensor([0.0, 1.0, 1.0, 0.0])
NOW = Pass(torch.zeros(1, 4, dtype=torch.long))


class Neuron(nn.Module):
    """Two inputs, one activation, one output: the logit of "one of the two, not both"."""

    def __init__(self, activation: nn.Module | Callable[[Tensor], Tensor]):
        super().__init__()
        self.weigh, self.activation = nn.Linear(2, 1), activation
        self.read = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.weigh(x)
        fire = self.activation
        y = fire(z, NOW) if isinstance(fire, Oscillating) else fire(z)
        return self.read(y)[:, 0]


def oscillating() -> Oscillating:
    part = Oscillating(1, start=1.0, spread=0.1)
    part.reset()
    return part


KINDS: dict[str, Callable[[], nn.Module | Callable[[Tensor], Tensor]]] = {
    "oscillating": oscillating,
    "z^2": lambda: torch.square,
    "gelu": lambda: F.gelu,
    "tanh": lambda: torch.tanh,
}


@torch.no_grad()
def widen(neuron: Neuron) -> Neuron:
    """Weights large enough that the neuron starts beyond the straight part of its activation."""
    neuron.weigh.weight.normal_()
    neuron.weigh.bias.normal_()
    return neuron


def learn(kind: str, seed: int, steps: int) -> tuple[Neuron, float]:
    """A trained neuron and its loss."""
    torch.manual_seed(seed)
    neuron = widen(Neuron(KINDS[kind]()))
    optimizer = torch.optim.Adam(neuron.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(neuron(INPUTS), WANTED)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return neuron, loss.item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args(arguments)
    print(f"{'activation':<12} {'solved':>7}  loss of each seed")
    for kind in KINDS:
        runs = [learn(kind, seed, args.steps) for seed in range(args.seeds)]
        solved = sum(bool(torch.equal((neuron(INPUTS) > 0).float(), WANTED)) for neuron, _ in runs)
        losses = " ".join(f"{loss:.3f}" for _, loss in runs)
        print(f"{kind:<12} {solved:>3} of {len(runs)}  {losses}")
    best, _ = min((learn("oscillating", s, args.steps) for s in range(args.seeds)), key=_loss)
    print("\n a  b  wanted  probability (oscillating, its best seed)")
    answers = torch.sigmoid(best(INPUTS)).tolist()
    for (a, b), want, answer in zip(INPUTS.tolist(), WANTED.tolist(), answers, strict=True):
        print(f"{a:2.0f} {b:2.0f} {want:7.0f}  {answer:.4f}")
    return 0


def _loss(run: tuple[Neuron, float]) -> float:
    return run[1]


if __name__ == "__main__":
    raise SystemExit(main())
