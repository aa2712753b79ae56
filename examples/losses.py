"""What each loss makes of a token that is known, one that is open, and one that is missed.

    python examples/losses.py

Three tokens; the model gives the right one a probability of 0.9, 0.4 and 0.05. Printed is how hard
each loss pulls at the right token's logit (minus its gradient): for cross entropy that is 1 - p.
The teacher of `distillation` is sure of all three; z-loss (0.1, a thousand times PaLM's, to be
seen) pulls all logits down, those of likely tokens most.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from espalier.train.loss.cross_entropy import CrossEntropyConfig
from espalier.train.loss.distillation import DistillationConfig
from espalier.train.loss.focal import FocalConfig
from espalier.train.loss.top1 import Top1Config

RIGHT = torch.tensor([0.9, 0.4, 0.05])
TARGETS = torch.zeros(3, dtype=torch.long)
SURE = torch.tensor([[4.0, 0.0, 0.0]]).expand(3, -1)


def logits() -> Tensor:
    """Of three tokens; what the right one leaves is shared two to one."""
    left = 1 - RIGHT
    return torch.stack((RIGHT, left * 2 / 3, left / 3), -1).log() + 1


def pull(loss: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Minus the gradient of the right token's logit, for each of the three."""
    given = logits().requires_grad_()
    (grad,) = torch.autograd.grad(loss(given, TARGETS), given)
    return [-x for x in grad[:, 0].tolist()]


def losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    _, guided = DistillationConfig(teacher="any", share=1.0).guide()
    return {
        "cross_entropy": CrossEntropyConfig().build(),
        "label_smoothing": CrossEntropyConfig(label_smoothing=0.1).build(),
        "z_loss": CrossEntropyConfig(z_loss=0.1).build(),
        "focal": FocalConfig().build(),
        "top1": Top1Config().build(),
        "distillation": lambda given, targets: guided(given, targets, SURE),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    print(f"{'':<16}" + "".join(f"{p:>8.2f}" for p in RIGHT.tolist()))
    for name, loss in losses().items():
        print(f"{name:<16}" + "".join(f"{x:>8.3f}" for x in pull(loss)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
