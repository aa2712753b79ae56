"""Every optimizer on one small problem: logistic regression in a badly scaled space.

    python examples/optimizers.py [--steps 200]

Features differ in size by a factor of a hundred, which plain gradient descent suffers from and what
adapts to each parameter, or to the gradient's whole matrix, does not. Each takes the best of a few
learning rates. Losses are cross-entropies in nats, over three classes: guessing is 1.099.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import names, resolve
from espalier.train.slots import Named, OptimizerConfig

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
GO = torch.zeros(())


def problem() -> tuple[Tensor, Tensor]:
    """400 points of 8 features, and their classes."""
    chance = torch.Generator().manual_seed(0)
    points = torch.randn(400, 8, generator=chance)
    classes = (points @ torch.randn(8, 3, generator=chance)).argmax(-1)
    return points * torch.logspace(-1, 1, 8), classes


def learn(name: str, rate: float, steps: int) -> float:
    """The loss after so many steps."""
    points, classes = problem()
    weight = nn.Parameter(torch.zeros(3, 8))
    parameters = [Named("weight", weight, "matrix")]
    optimizer = resolve(OptimizerConfig, name)().within(steps).build(parameters, 0.0)
    chance = torch.Generator().manual_seed(1)
    for _ in range(steps):
        logits = points @ weight.mT
        if optimizer.curious():  # Sophia: the gradient of classes drawn from the model
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=chance)[:, 0]
            (weight.grad,) = torch.autograd.grad(F.cross_entropy(logits, drawn), weight)
            optimizer.observe(torch.ones(()), len(points))
            logits = points @ weight.mT
        (weight.grad,) = torch.autograd.grad(F.cross_entropy(logits, classes), weight)
        optimizer.step(rate, torch.ones(()), GO)
    return F.cross_entropy(points @ weight.mT, classes).item()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(arguments).steps
    print(f"{'optimizer':<12}{'rate':>8}{'loss':>9}")
    for name in names(OptimizerConfig):
        loss, rate = min((learn(name, rate, steps), rate) for rate in RATES)
        print(f"{name:<12}{rate:>8}{loss:>9.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
