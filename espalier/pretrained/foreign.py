"""What an importer gives: everything there was to go on from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from espalier.nn.gpt import GPT, GPTConfig, sketch
from espalier.nn.slots import Part


@dataclass(frozen=True)
class Moments:
    """What AdamW remembered, by our parameter names."""

    step: int
    first: Mapping[str, Tensor]
    """running mean of the gradient (exp_avg)"""
    second: Mapping[str, Tensor]
    """running mean of its square (exp_avg_sq)"""


@dataclass(frozen=True)
class Foreign:
    """A model from elsewhere, in our names."""

    kind: str
    path: Path
    config: GPTConfig
    weights: Mapping[str, Tensor]
    step: int = 0
    """updates made so far"""
    moments: Moments | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """the training configuration, in the other program's words"""
    val_loss: float | None = None
    image_mode: str | int | None = None
    """how images become squares, where the files say"""

    @property
    def folder(self) -> Path:
        """Where it lies, with what belongs to it."""
        return self.path.parent if self.path.is_file() else self.path

    def build(self) -> GPT:
        """The model on the CPU, filled."""
        return fill(self.config, self.weights)


def once(model: GPT) -> dict[str, str]:
    """The first name of each parameter and buffer, by all of its names."""
    first: dict[int, str] = {}
    held = model.state_dict(keep_vars=True).items()
    return {name: first.setdefault(id(tensor), name) for name, tensor in held}


def fill(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    """A model with these weights; its keys and shapes must be exactly the model's.

    What several layers share may be there once, under its first name.
    """
    model = sketch(config).to_empty(device="cpu")
    for name, _ in model.named_buffers():
        if name not in weights:  # a table of its own, not saved
            owner = model.get_submodule(name.rpartition(".")[0])
            assert isinstance(owner, Part)
            owner.reset()
    again = {name: weights[first] for name, first in once(model).items() if first in weights}
    model.load_state_dict({**weights, **again})
    return model.eval()
