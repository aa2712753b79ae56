"""What can be taken out of a part whole: hidden units, heads, branches, neurons.

A part that can get smaller has a method `removable()`, which describes its units; whoever removes
some needs to know nothing else about it. The part stands in its block under the name that its
configuration has there (`block.ffn` is `block.ffn`), so that the smaller shape can be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from espalier.nn.slots import Part


class Place(NamedTuple):
    """`size` indices of one dimension of a tensor, which goes by its path in the part."""

    parameter: str
    dim: int
    first: int
    size: int


Places = Callable[[int], Sequence[Place]]
Carry = Callable[[Mapping[str, Tensor], Sequence[int]], dict[str, Tensor]]


@dataclass(frozen=True)
class Units:
    """The like units of one part, numbered from 0."""

    kind: str
    """hidden, head, branch, neuron ..."""
    count: int
    places: Places
    """all that belongs to a unit alone"""
    writes: Places
    """through which it is heard: where these are zero, it is as if the unit were not there"""
    patch: Callable[[Sequence[int]], Mapping[str, Any]]
    """kept units -> what changes in the part's configuration"""
    carry: Carry | None = None
    """the part's tensors, kept units -> the smaller part's; cutting at `places` when left out"""
    inside: tuple[str, int] | None = None
    """these lie in that unit of the same part, such as ("neuron", 2)"""


@runtime_checkable
class Shrinks(Protocol):
    """A part that can get smaller; at least one unit of each kind stays."""

    def removable(self) -> Sequence[Units]: ...


def spaced(*of_first: Place) -> Places:
    """Units side by side: each lies `size` further than the one before."""
    return lambda unit: [
        place._replace(first=place.first + unit * place.size) for place in of_first
    ]


def rows(path: str, linear: nn.Module, first: int = 0, size: int = 1) -> tuple[Place, ...]:
    """Outputs of a map, with their biases."""
    names = [name for name, _ in linear.named_parameters()]
    return tuple(Place(f"{path}.{name}", 0, first, size) for name in names)


def columns(path: str, first: int = 0, size: int = 1) -> tuple[Place, ...]:
    """Inputs of a map."""
    return (Place(f"{path}.weight", 1, first, size),)


def elementwise(path: str, function: nn.Module, size: int = 1) -> tuple[Place, ...]:
    """Numbers that an activation, or a part of it, says it has for each feature."""
    return tuple(
        Place(f"{below}.{name}", 0, 0, size)
        for below, part in function.named_modules(prefix=path)
        if isinstance(part, Part)
        for name in part.per_feature
    )


def simple(linear: nn.Module) -> bool:
    """Is it one matrix (n_out, n_in), with or without a bias, of rows that stand alone?"""
    if getattr(linear, "entangled", False):
        return False
    shapes = {name: p.ndim for name, p in linear.named_parameters()}
    return shapes.get("weight") == 2 and shapes.keys() <= {"weight", "bias"}


class Features(NamedTuple):
    """What belongs to the first hidden feature of a part, and through what it is heard there."""

    places: tuple[Place, ...]
    writes: tuple[Place, ...]


@runtime_checkable
class Featured(Protocol):
    """A part between other parts of an ffn, whose weights belong to hidden features."""

    def features(self) -> Features: ...


def hidden(part: nn.Module, write: str = "down") -> tuple[Units, ...]:
    """The hidden units of a feed-forward part whose configuration says `width`.

    They are the inputs of the map `write`; every other child makes or changes them: a map has a row
    for each, an activation a number for each or none, what is `Featured` says itself. Nothing can
    be taken out where a child is of another make.
    """
    last = part.get_submodule(write)
    if not simple(last):
        return ()
    count = int(last.get_parameter("weight").shape[1])
    places, writes = list(columns(write)), list(columns(write))
    for name, child in part.named_children():
        if name == write:
            continue
        found = _features(name, child)
        if found is None:
            return ()
        places += found.places
        writes += found.writes
    patch = lambda kept: {"width": len(kept)}  # noqa: E731
    return (Units("hidden", count, spaced(*places), spaced(*writes), patch),)


def _features(name: str, child: nn.Module) -> Features | None:
    if isinstance(child, Featured):
        return Features(*(_below(name, own) for own in child.features()))
    if simple(child):
        return Features(rows(name, child), ())
    if all(p.ndim < 2 for p in child.parameters()):
        return Features(elementwise(name, child), ())
    return None


def _below(name: str, places: Sequence[Place]) -> tuple[Place, ...]:
    return tuple(place._replace(parameter=f"{name}.{place.parameter}") for place in places)
