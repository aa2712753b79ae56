"""What can be taken out of a cortical block: neurons, their branches, hidden features of somas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espalier.nn.cortex.neuron import Neuron
from espalier.nn.units import Place, Units, columns, elementwise, rows, simple, spaced


def removable(neurons: Sequence[Neuron]) -> list[Units]:
    """Of a block whose configuration lists its `neurons`."""
    maps = (m for n in neurons for m in (n.qkv, n.soma.mix, n.soma.up, n.soma.down, n.soma.out))
    if not all(map(simple, maps)) or any(list(n.score.parameters()) for n in neurons):
        return []
    shapes = [_shape(neuron) for neuron in neurons]
    found = [units for i in range(len(neurons)) for units in _inner(neurons[i], i, shapes)]
    return [*found, _whole(neurons, shapes)]


def _shape(neuron: Neuron) -> dict[str, int]:
    branches = neuron.heads
    width = neuron.soma.mix.get_parameter("weight").shape[1]
    hidden = neuron.soma.down.get_parameter("weight").shape[1]
    return {"branches": branches, "branch_width": width // branches, "soma": hidden}


def _inner(neuron: Neuron, i: int, shapes: Sequence[dict[str, int]]) -> Iterator[Units]:
    """Branches and hidden features of neuron i."""
    at, (count, each, hidden) = f"neurons.{i}", shapes[i].values()

    def patched(field: str) -> Any:
        return lambda kept: {
            "neurons": [*shapes[:i], {**shapes[i], field: len(kept)}, *shapes[i + 1 :]]
        }

    mix = columns(f"{at}.soma.mix", 0, each)
    branch = [
        *(
            p
            for third in range(3)
            for p in rows(f"{at}.qkv", neuron.qkv, third * count * each, each)
        ),
        *rows(f"{at}.conv", neuron.conv, 0, each),
        *rows(f"{at}.up", neuron.up, 0, 2 * each),
        *elementwise(f"{at}.activation", neuron.activation, 2 * each),
        *rows(f"{at}.down", neuron.down, 0, each),
        *rows(f"{at}.norm", neuron.norm, 0, each),
        *(rows(f"{at}.trace", neuron.trace, 0, each) if neuron.trace is not None else ()),
    ]
    inside = ("neuron", i)
    yield Units(
        "branch", count, spaced(*branch, *mix), spaced(*mix), patched("branches"), inside=inside
    )
    down = columns(f"{at}.soma.down")
    feature = [
        *rows(f"{at}.soma.up", neuron.soma.up),
        *elementwise(f"{at}.soma.activation", neuron.soma.activation),
    ]
    yield Units(
        "hidden", hidden, spaced(*feature, *down), spaced(*down), patched("soma"), inside=inside
    )


def _whole(neurons: Sequence[Neuron], shapes: Sequence[dict[str, int]]) -> Units:
    def places(i: int) -> list[Place]:
        named = neurons[i].named_parameters()
        return [Place(f"neurons.{i}.{name}", 0, 0, p.shape[0]) for name, p in named]

    def writes(i: int) -> list[Place]:
        return [place for place in places(i) if place.parameter.endswith(".soma.out.weight")]

    return Units(
        "neuron",
        len(neurons),
        places,
        writes,
        lambda kept: {"neurons": [shapes[i] for i in kept]},
        carry=_without,
    )


def _without(tensors: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """The kept neurons, renumbered, as loud as before: their shares of the competition grow, for
    softmax renormalises, so what they write shrinks by as much."""
    number = {str(old): str(new) for new, old in enumerate(kept)}
    competition = tensors["competition"]
    share = torch.softmax(competition, 0)[list(kept)].sum()
    found = {"competition": competition[list(kept)]}
    for name, tensor in tensors.items():
        first, *rest = name.split(".")
        if first != "neurons":
            found.setdefault(name, tensor)
        elif rest[0] in number:
            loud = tensor * share if name.endswith(".soma.out.weight") else tensor
            found[".".join([first, number[rest[0]], *rest[1:]])] = loud
    return found
