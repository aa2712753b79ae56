"""The contract: what each slot of a model is given and must give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from espalier.config import PartConfig
from espalier.native import dropout as native
from espalier.nn.state import Image, Pass

Role = Literal["matrix", "embedding", "vector"]


@dataclass(frozen=True)
class Dims:
    """Sizes that every part of one model shares."""

    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    vocab_size: int
    dropout: float = 0.0
    bias: bool = True
    std: float = 0.02  # of matrices and embeddings at the start
    residual_std: float = 0.02  # of projections that write to the residual stream

    @property
    def head_width(self) -> int:
        return self.n_embd // self.n_head


class Part(nn.Module):
    """A module that fills its own tensors in `reset` and may declare laws it cannot keep."""

    exempt: ClassVar[Mapping[str, str]] = {}  # law of the contract suite -> why it cannot hold
    role: ClassVar[Mapping[str, Role]] = {}  # own parameter -> role, where shape does not tell
    rounds: ClassVar[bool] = False  # to few bits: the last bit of a sum can become a whole step
    entangled: ClassVar[bool] = False  # taking out one unit changes what the others compute
    special: Mapping[str, float] = {}  # functions beside + and *, evaluations per element
    places_tokens: ClassVar[bool] = True  # False: mixes positions, but never asks where they are
    passes: int = 1  # how often a row is read before its last result is known
    stored: Mapping[str, float] = {}  # own parameter -> bits that inference needs of each number
    per_feature: Sequence[str] = ()  # own tensors, buffers too, of a number for each feature
    unused: Sequence[str] = ()  # parameters, by path below this part, that no forward pass reads

    def reset(self) -> None:
        """Fill this part's own parameters and buffers (not its children's)."""

    def settled(self) -> Part:
        """An equal part for inference alone, with what the weights decide worked out before."""
        return self

    def describe(self) -> dict[str, int | str | list[str]]:
        """What `check` tells of this part beside its size: named facts. Numbers are summed."""
        return {}

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...


class Embed(Part):
    """Token ids to the residual stream, and back for a tied head."""

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        raise NotImplementedError

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        raise NotImplementedError

    def read(self) -> Sequence[nn.Parameter]:
        """The matrices that `logits` multiplies with."""
        return (self.get_parameter("weight"),)


class Head(Part):
    """A head that learns from more than the next token's loss."""

    def learn(
        self, hidden: Float[Tensor, "batch time d"], ids: Int[Tensor, "batch time"], now: Pass
    ) -> None:
        """Called by the trunk in training, with its output: add auxiliary losses to the pass."""
        raise NotImplementedError


class Front(Part):
    """Images to vectors that stand in the residual stream as tokens do."""

    def forward(self, images: Sequence[Image], now: Pass) -> Float[Tensor, "features d"]:
        """The features of every image of a pass, one image after the other."""
        raise NotImplementedError

    def count(self, image: Image) -> int:
        """How many features an image gives; only its shape is looked at."""
        raise NotImplementedError


class Position(Part):
    """Where a token stands; each of the three ways defaults to nothing."""

    heads: int | None = None  # of the attention that its bias is made for; None: any number

    def add(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        """In the trunk, before the stack; may leave `now.tables` for `turn` and `bias`."""
        return x

    def turn(
        self, x: Float[Tensor, "batch time heads width"], now: Pass
    ) -> Float[Tensor, "batch time heads width"]:
        """In attention, on queries and keys."""
        return x

    def bias(self, now: Pass, key_positions: Int[Tensor, "batch key"], layer: int) -> Tensor | None:
        """In the attention of a layer, added to the scores: (batch, heads, query, key)."""
        return None


class NormConfig(PartConfig, slot="espalier.nn.norm"):
    """Normalisation over the last dimension: (x, now) -> x."""

    places = ("block.norm",)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        raise NotImplementedError


class ActivationConfig(PartConfig, slot="espalier.nn.activation"):
    """Elementwise non-linearity: (x, now) -> x."""

    places = ("block.ffn.activation",)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        raise NotImplementedError


class LinearConfig(PartConfig, slot="espalier.nn.linear"):
    """A learned map of the last dimension: (x, now) -> y. A part with a `std` is filled with it."""

    places = ("block.attention.linear", "block.ffn.linear")

    def build(self, n_in: int, n_out: int, dims: Dims, layer: int) -> Part:
        raise NotImplementedError


class ScoreConfig(PartConfig, slot="espalier.nn.score"):
    """Attention's normaliser: (scores, mask, now) -> weights over the last dimension."""

    places = ("block.attention.score",)

    def build(self, dims: Dims, layer: int) -> Part:
        raise NotImplementedError


class AttentionConfig(PartConfig, slot="espalier.nn.attention"):
    """Mixes positions: (x, now) -> x."""

    places = ("block.attention",)

    def build(self, dims: Dims, layer: int) -> Part:
        raise NotImplementedError


class FfnConfig(PartConfig, slot="espalier.nn.ffn"):
    """Works on each position alone: (x, now) -> x."""

    places = ("block.ffn",)

    def build(self, dims: Dims, layer: int) -> Part:
        raise NotImplementedError


class BlockConfig(PartConfig, slot="espalier.nn.block"):
    """How one layer is wired: (x, now) -> x."""

    places = ("block",)

    def build(self, dims: Dims, layer: int) -> Part:
        raise NotImplementedError

    def last_norm(self) -> NormConfig | None:
        """The trunk's last norm where the recipe names none."""
        return None


class StackConfig(PartConfig, slot="espalier.nn.stack"):
    """How layers are wired: (x, now) -> x. Calls blocks only through `now.run`."""

    places = ("stack",)

    def share(self, blocks: Sequence[Part], configs: Sequence[BlockConfig]) -> list[Part]:
        """The layers, some of which may be the same; ConfigError where theirs say they differ."""
        return list(blocks)

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        raise NotImplementedError


class EmbedConfig(PartConfig, slot="espalier.nn.embed"):
    """Token ids to the residual stream: (ids, now) -> x."""

    places = ("embed",)

    def build(self, dims: Dims) -> Embed:
        raise NotImplementedError


class FrontConfig(PartConfig, slot="espalier.nn.front"):
    """Images to vectors in the residual stream, put where `now.slots` says: (pixels, now) -> x."""

    places = ("front",)

    def build(self, dims: Dims) -> Front:
        raise NotImplementedError


class PositionConfig(PartConfig, slot="espalier.nn.position"):
    """Where a token stands: added in the trunk, turned or biased in attention."""

    places = ("position",)

    def build(self, dims: Dims) -> Position:
        raise NotImplementedError


class SteeringConfig(PartConfig, slot="espalier.nn.steering"):
    """Moves the residual stream after one layer: (x, now) -> x."""

    places = ("steering",)
    layer: int = Field(0, ge=0)

    def build(self, dims: Dims) -> Part:
        raise NotImplementedError


class HeadConfig(PartConfig, slot="espalier.nn.head"):
    """The residual stream to logits: (hidden) -> logits."""

    places = ("head",)

    def build(self, dims: Dims, embed: Embed) -> Part:
        raise NotImplementedError


def onto_residual(linear: Part, dims: Dims) -> Part:
    """Mark a projection that writes to the residual stream: it starts smaller (or at zero)."""
    assert hasattr(linear, "std"), f"{type(linear).__name__} has no std to set"
    setattr(linear, "std", dims.residual_std)  # noqa: B010 - a plain number, not a submodule
    return linear


def fused(linear: Part, rows: Sequence[int]) -> Part:
    """Mark a projection that computes several at once: `rows` outputs each, one matrix each."""
    setattr(linear, "split", tuple(rows))  # noqa: B010
    return linear


def splits(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The rows of the matrices that fused weights hold, by parameter name."""
    return {
        f"{path}.weight": module.split
        for path, module in model.named_modules()
        if isinstance(getattr(module, "split", None), tuple) and hasattr(module, "weight")
    }


def retire(part: Part) -> Part:
    """Keep a part's parameters for their published count: no pass reads and nothing trains them."""
    part.unused = tuple(name for name, _ in part.requires_grad_(False).named_parameters())
    return part


def unused(model: nn.Module) -> list[str]:
    """Paths of the parameters that no forward pass reads."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, Part)
        for name in module.unused
    ]


def drop(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout that costs nothing when off."""
    if not (training and p):
        return x
    return native.drop(x, p) if native.serves(x) else nn.functional.dropout(x, p)


def reset(model: nn.Module, seed: int) -> None:
    """Fill every part in module order from one generator; the same on every device."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, Part):
                module.reset()


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of each parameter, by which optimizers and weight decay choose."""
    found: dict[str, Role] = {}
    for path, module in model.named_modules():
        declared = module.role if isinstance(module, Part) else {}
        for name, parameter in module.named_parameters(recurse=False):
            shape_says: Role = "matrix" if parameter.ndim >= 2 else "vector"
            found[f"{path}.{name}" if path else name] = declared.get(name, shape_says)
    return found


@torch.no_grad()
def xavier(model: nn.Module, seed: int, split: Mapping[str, Sequence[int]]) -> None:
    """Fill matrices and embeddings anew, uniform on +-sqrt(6 / (fan in + fan out)) (Glorot 2010).

    Fans are torch's: of a weight (out, in, taps), in * taps and out * taps. A parameter in `split`
    holds matrices of so many rows, each of which has its own.
    """
    named = roles(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if named[name] != "vector":
                for matrix in torch.split(parameter, list(split.get(name, parameter.shape[:1]))):
                    nn.init.xavier_uniform_(matrix)
