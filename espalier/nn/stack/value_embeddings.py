"""Tables of tokens that attention's values begin with (modded-nanoGPT, 2024).

The first and the last layers hear the same tables, in the same order; the middle hears none. A
cousin of value residuals (arXiv:2410.17897), which hand on the first layer's values instead.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Part, StackConfig
from espalier.nn.state import Pass
from espalier.nn.steered import Steered


class ValueEmbeddingsConfig(StackConfig):
    """v_i += w_i table_j[token] in attention of layers j and L - tables + j"""

    variants = ({"tables": 1},)

    tables: int = Field(3, ge=1)
    """no more than half of the layers"""
    start: float = 0.5
    """of each w"""

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        count = min(self.tables, max(1, len(blocks) // 2))
        heard = {**_places(count, 0), **_places(count, len(blocks) - count)}
        widths = [_width(blocks[layer], layer, dims) for layer in heard]
        if len(set(widths)) > 1:
            raise ConfigError("stack (value_embeddings): layers differ in attention.n_kv_head")
        tables = [Table(dims.vocab_size, widths[0], dims.std) for _ in range(count)]
        return ValueEmbeddings(blocks, tables, heard, self.start)


def _places(count: int, first: int) -> dict[int, int]:
    """Layer -> table."""
    return {first + table: table for table in range(count)}


def _width(block: Part, layer: int, dims: Dims) -> int:
    block = block.block if isinstance(block, Steered) else block
    attention = getattr(block, "attention", None)
    if not getattr(attention, "takes_values", False):
        name = type(attention or block).__name__.lower()
        raise ConfigError(
            f"stack (value_embeddings): layer {layer} has {name}, which takes no values; it needs "
            "attention such as causal"
        )
    width = getattr(attention, "v_width", dims.head_width)
    return int(attention.kv_heads) * int(width)  # type: ignore[union-attr]


class Table(Part):
    role = {"weight": "embedding"}

    def __init__(self, vocab_size: int, width: int, std: float):
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class ValueEmbeddings(Part):
    """`heard`: layer -> the table it hears."""

    def __init__(
        self, blocks: Sequence[Part], tables: Sequence[Part], heard: dict[int, int], start: float
    ):
        super().__init__()
        self.blocks, self.tables = nn.ModuleList(blocks), nn.ModuleList(tables)
        self.heard, self.start = heard, start
        self.shares = nn.Parameter(torch.empty(len(heard)))

    def reset(self) -> None:
        nn.init.constant_(self.shares, self.start)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        assert now.ids is not None
        shares = dict(zip(self.heard, self.shares, strict=True))
        for layer, block in enumerate(self.blocks):
            values = None
            if layer in self.heard:
                table = self.tables[self.heard[layer]].get_parameter("weight")
                values = shares[layer] * F.embedding(now.ids, table)
            x = now.run(block, x, values)
        return x
