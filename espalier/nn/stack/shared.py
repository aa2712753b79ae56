"""Layers that share their parameters (ALBERT, arXiv:1909.11942; MobileLLM, arXiv:2402.14905).

A shared layer is built once, for the first place it stands in, and counts once; what it remembers
belongs to each call. Attention and feed-forward parts may be shared apart from each other.
"""

from collections.abc import Sequence

from pydantic import Field

from espalier.config import Config, default
from espalier.errors import ConfigError
from espalier.nn.slots import BlockConfig, Dims, Part, StackConfig


class Pattern(Config):
    """Which layers are one: i -> (i // size) mod sequence, counted from the nearer end if mirrored.

    For six layers: size 2 AABBCC, sequence 2 ABABAB, size 2 and sequence 2 AABBAA, mirror ABCCBA.
    """

    size: int = Field(1, ge=1)
    """neighbours that are one"""
    sequence: int | None = Field(None, ge=1)
    """groups after which it begins again"""
    mirror: bool = False
    """the second half repeats the first backwards"""

    def owners(self, n_layer: int) -> list[int]:
        """For each layer the first one that it is the same as."""
        groups = []
        for layer in range(n_layer):
            group = (min(layer, n_layer - 1 - layer) if self.mirror else layer) // self.size
            groups.append(group % self.sequence if self.sequence else group)
        return [groups.index(group) for group in groups]


class SharedConfig(StackConfig):
    """stack(blocks), where layers of one group are the same block, or have the same half"""

    variants = (
        {"block": {"sequence": 1}},
        {"block": None, "attention": {"mirror": True}},
        {"block": None, "ffn": {"size": 2}, "stack": "unet"},
    )

    block: Pattern | None = Pattern(size=2)
    """of whole layers; null where halves are shared instead"""
    attention: Pattern | None = None
    ffn: Pattern | None = None
    stack: StackConfig = default("plain")
    """how the layers are wired"""

    def share(self, blocks: Sequence[Part], configs: Sequence[BlockConfig]) -> list[Part]:
        if self.block and (self.attention or self.ffn):
            raise ConfigError(
                "stack.block shares whole layers, and with them stack.attention and stack.ffn: "
                "write stack.block=null to share a half alone"
            )
        found = list(blocks)
        for half, owners in self._owners(len(found)).items():
            _check(half, owners, configs)
            for layer, owner in enumerate(owners):
                if half == "block":
                    found[layer] = blocks[owner]
                else:
                    setattr(found[layer], half, found[owner].get_submodule(half))
        return self.stack.share(found, configs)

    def build(self, dims: Dims, blocks: Sequence[Part]) -> Part:
        return self.stack.build(dims, blocks)

    def _owners(self, n_layer: int) -> dict[str, list[int]]:
        patterns = {"block": self.block, "attention": self.attention, "ffn": self.ffn}
        return {half: one.owners(n_layer) for half, one in patterns.items() if one}


def _check(half: str, owners: Sequence[int], configs: Sequence[BlockConfig]) -> None:
    """Do the layers that share agree on what they share?"""
    for layer, owner in enumerate(owners):
        one, other = configs[layer], configs[owner]
        if half != "block" and not hasattr(one, half):
            raise ConfigError(f"stack.{half} (shared): block {one.name} has no {half}")
        alike = one == other if half == "block" else getattr(one, half) == getattr(other, half)
        if not alike:
            raise ConfigError(
                f"stack.{half} (shared): layers {owner} and {layer} share, but model.layers or "
                "model.cycle makes them differ"
            )
