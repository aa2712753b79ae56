"""Which shard a piece of a document goes to."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Protocol

from espalier.data.pieces import Piece

VAL = 0  # the index of the validation shard; training shards are 1, 2, ...
TOP = 2**64


class Split(Protocol):
    def place(self, piece: Piece) -> int:
        """The index of the shard that takes the piece."""
        ...

    def rule(self) -> dict[str, Any]:
        """What meta.json says about it."""
        ...


@dataclass(frozen=True)
class ByPosition:
    """One document: training shards one after the other, validation at the end.

    `edges` are the byte positions of the shards' ends but the last; `fraction` goes to validation.
    """

    fraction: float
    edges: tuple[int, ...]

    def place(self, piece: Piece) -> int:
        index = bisect_right(self.edges, piece.at)
        return VAL if index == len(self.edges) else index + 1

    def rule(self) -> dict[str, Any]:
        return {"rule": "position", "val_fraction": self.fraction, "edges": list(self.edges)}


@dataclass(frozen=True)
class ByHash:
    """Many documents: by the 64-bit hash of each, so that equal documents stay together.

    Those below `threshold` are for validation; the rest is dealt to `shards` training shards. A
    document whose source has chosen its side goes there.
    """

    fraction: float
    threshold: int
    shards: int

    def place(self, piece: Piece) -> int:
        if piece.side == "val" or (piece.side is None and piece.key < self.threshold):
            return VAL
        return 1 + piece.key % self.shards

    def rule(self) -> dict[str, Any]:
        share = self.threshold / TOP
        return {"rule": "document-hash", "val_fraction": self.fraction, "threshold": share}


def shard_names(shards: int) -> list[str]:
    """File names by index: validation, then training."""
    if shards == 1:
        return ["val.bin", "train.bin"]
    return ["val.bin", *(f"train-{i:05d}-of-{shards:05d}.bin" for i in range(shards))]


def fractions(val_fraction: float, shards: int) -> list[float]:
    """The ends of the training shards in a single document."""
    share = 1 - val_fraction
    return [share * (i + 1) / shards for i in range(shards - 1)] + [share]
