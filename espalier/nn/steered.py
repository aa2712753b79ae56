"""A layer, and what moves the residual stream after it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Part, SteeringConfig
from espalier.nn.state import Pass


class Steered(Part):
    """steering(block(x)), with how many corpora it tells apart (None: any)."""

    def __init__(self, block: Part, steering: Part, sources: int | None = None):
        super().__init__()
        self.block, self.steering, self.sources = block, steering, sources

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return self.steering(self.block(x, now), now)


def steer(blocks: list[Part], config: SteeringConfig, dims: Dims) -> None:
    """Put a steering part after its layer, in place. Raises ConfigError where there is none."""
    if config.layer >= len(blocks):
        raise ConfigError(
            f"model.steering.layer={config.layer}: layers are 0 to {len(blocks) - 1} "
            f"(model.n_layer={len(blocks)})"
        )
    sources = getattr(config, "sources", None)
    blocks[config.layer] = Steered(blocks[config.layer], config.build(dims), sources)


def sources(now: Pass, x: Tensor) -> Int[Tensor, " batch"]:
    """The corpus that each row of a pass is of; the first where nobody says."""
    if now.source is None:
        return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
    return now.source
