"""Which neurons stand in which layer, and which layers speak back, by BioGPT's published rule."""

from typing import Literal

Zone = Literal["early", "middle", "late"]

_BRANCHES: dict[Zone, tuple[int, ...]] = {"early": (8, 8), "middle": (8, 6, 4), "late": (4, 4)}


def zone(layer: int, depth: int) -> Zone:
    """Early below a third of the way through the layers, late above two thirds."""
    progress = layer / max(depth - 1, 1)
    if progress < 0.33:
        return "early"
    return "late" if progress > 0.67 else "middle"


def branches(layer: int, depth: int, width: int) -> tuple[int, ...]:
    """Branches of each neuron of a layer: its zone's, each lowered until it divides the width."""
    return tuple(
        next(n for n in range(wanted, 0, -1) if width % n == 0)
        for wanted in _BRANCHES[zone(layer, depth)]
    )


def links(depth: int) -> tuple[tuple[int, int], ...]:
    """(source, target): the layers of the last third speak to those of the first, in order."""
    third = depth // 3
    return tuple((depth - third + i, i) for i in range(third))
