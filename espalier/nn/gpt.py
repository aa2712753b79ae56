"""The only language model: a trunk (embed, position, stack, norm) and a head."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from espalier.config import Config, decode, default, encode
from espalier.errors import ConfigError
from espalier.nn.attend import agree
from espalier.nn.slots import (
    BlockConfig,
    Dims,
    Embed,
    EmbedConfig,
    Front,
    FrontConfig,
    Head,
    HeadConfig,
    NormConfig,
    Part,
    Position,
    PositionConfig,
    StackConfig,
    SteeringConfig,
    drop,
    reset,
    splits,
    xavier,
)
from espalier.nn.state import Pass, at
from espalier.nn.steered import steer
from espalier.tree import merge


class InitConfig(Config):
    """How tensors start."""

    matrices: Literal["normal", "xavier", "xavier_stacked"] = "normal"
    """and embeddings. xavier: uniform, by each one's own size, in place of the next two fields;
    xavier_stacked: by that of the tensor that holds several (q, k and v; branches), as BioGPT"""
    std: float = Field(default=0.02, gt=0)
    residual: Literal["scaled", "zero", "plain"] = "scaled"
    """projections onto the residual stream: std / sqrt(2 n_layer), zero, or std"""


class LayerConfig(Config):
    """A run of layers that differ from `model.block`."""

    repeat: int = Field(1, ge=1)
    block: Any = Field(default_factory=dict)
    """merged onto `model.block`"""


class GPTConfig(Config):
    """Sizes stand here once; parts have only their own fields."""

    n_layer: int = Field(12, ge=1, le=1000)  # as deep as any that was trained (arXiv:2203.00555)
    n_embd: int = Field(768, ge=1, le=2**20)
    n_head: int = Field(12, ge=1)
    block_size: int = Field(1024, ge=1, le=2**24)
    vocab_size: int | None = Field(None, ge=1)
    """from the corpus when left out"""
    dropout: float = Field(0.0, ge=0, lt=1)
    bias: bool = True
    init: InitConfig = InitConfig()
    front: FrontConfig | None = None
    """what reads images"""
    embed: EmbedConfig = default("learned")
    position: PositionConfig = default("learned")
    block: BlockConfig = default("prenorm")
    """the default of every layer"""
    layers: tuple[LayerConfig, ...] | None = None
    """runs of layers whose block differs: [{repeat: 4, block: {...}}, ...]"""
    cycle: tuple[LayerConfig, ...] | None = None
    """such runs over and over, to the last layer; `layers` goes on top"""
    stack: StackConfig = default("plain")
    norm: NormConfig | None = None
    """the trunk's last norm; as the block's when left out (none after postnorm)"""
    head: HeadConfig = default("tied")
    steering: SteeringConfig | None = None
    """what moves the residual stream after one layer"""

    def dims(self) -> Dims:
        if self.n_embd % self.n_head:
            fits = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            near = sorted(sorted(fits, key=lambda n: abs(math.log(n / self.n_head)))[:3])
            raise ConfigError(
                f"model.n_head={self.n_head} must divide model.n_embd={self.n_embd}. "
                f"Near: {', '.join(map(str, near))}."
            )
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size is not set; give it, or a corpus: data.corpus=DIR")
        scale = {"scaled": (2 * self.n_layer) ** -0.5, "zero": 0.0, "plain": 1.0}
        return Dims(
            n_layer=self.n_layer,
            n_embd=self.n_embd,
            n_head=self.n_head,
            block_size=self.block_size,
            vocab_size=self.vocab_size,
            dropout=self.dropout,
            bias=self.bias,
            std=self.init.std,
            residual_std=self.init.std * scale[self.init.residual],
        )

    def blocks(self) -> list[BlockConfig]:
        """The block of each layer."""
        plain = [self.block] * self.n_layer
        if self.cycle:
            once = sum(run.repeat for run in self.cycle)
            turn = _patched([self.block] * once, self.cycle, "model.cycle")
            plain = [turn[layer % once] for layer in range(self.n_layer)]
        if self.layers is None:
            return plain
        patched = _patched(plain, self.layers, "model.layers")
        count = sum(run.repeat for run in self.layers)
        if count != self.n_layer:
            raise ConfigError(
                f"model.layers repeat {count} layers, but model.n_layer={self.n_layer}"
            )
        return patched

    def build(self) -> "GPT":
        """The model, its tensors not yet filled. Raises ConfigError for parts that do not fit."""
        dims, configs = self.dims(), self.blocks()
        embed = self.embed.build(dims)
        head = self.head.build(dims, embed)
        position = self.position.build(dims)
        blocks = [config.build(dims, layer) for layer, config in enumerate(configs)]
        agree(self.position.name, position, blocks)
        blocks = self.stack.share(blocks, configs)
        if self.steering is not None:
            steer(blocks, self.steering, dims)
        last = self.norm or configs[-1].last_norm()
        trunk = Trunk(
            embed,
            position,
            self.stack.build(dims, blocks),
            last.build(dims.n_embd, dims, dims.n_layer) if last else None,
            head,
            dims.dropout,
        )
        if self.front is not None:
            trunk.front = self.front.build(dims)
        return GPT(trunk, head)


class _OneBlock(Config):
    block: BlockConfig


def _patched(
    blocks: Sequence[BlockConfig], runs: Sequence[LayerConfig], at: str
) -> list[BlockConfig]:
    """Each block with the patch of the run that it falls into."""
    found: list[BlockConfig] = []
    for i, run in enumerate(runs):
        for block in blocks[len(found) : len(found) + run.repeat]:
            tree = merge(encode(block), run.block)
            found.append(decode(_OneBlock, {"block": tree}, f"{at}.{i}").block)
    return found


class Trunk(Part):
    def __init__(
        self,
        embed: Embed,
        position: Position,
        stack: Part,
        norm: Part | None,
        head: Part,
        dropout: float,
    ):
        super().__init__()
        self.embed, self.position, self.stack, self.norm = embed, position, stack, norm
        self.front: Front | None = None
        self.learners = (head,) if isinstance(head, Head) else ()  # a tuple: the GPT owns it
        self.dropout = dropout

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        now.position, now.ids = self.position, ids
        x = self.position.add(self.see(self.embed(ids, now), now), now)
        x = self.stack(drop(x, self.dropout, self.training), now)
        x = x if self.norm is None else self.norm(x, now)
        if self.training and now.states is None:
            for head in self.learners:
                head.learn(x, ids, now)
        return x

    def see(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        """Features of the images of a pass in place of its tokens, where `now.slots` says so."""
        if not now.images:
            return x
        assert self.front is not None, "a pass with images, but model.front is not set"
        assert now.slots is not None, "a pass with images, but no slots"
        features = self.front(now.images, now).to(x.dtype)
        return torch.where((now.slots >= 0)[..., None], features[now.slots.clamp(min=0)], x)


class GPT(Part):
    """`head(trunk(ids, now))`, apart so that losses, lenses and decoding take what they need."""

    def __init__(self, trunk: Trunk, head: Part):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(
        self, ids: Int[Tensor, "batch time"], now: Pass | None = None
    ) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.trunk(ids, now or at(ids)))


def sketch(config: GPTConfig) -> GPT:
    """The model on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return config.build()


def make(config: GPTConfig, seed: int, device: torch.device | str = "cpu") -> GPT:
    """A model filled from `seed`: the same numbers on every device."""
    model = config.build()  # not through meta: that would import a second's worth of torch
    reset(model, seed)
    if config.init.matrices != "normal":
        xavier(model, seed, splits(model) if config.init.matrices == "xavier" else {})
    return model.to(device)
