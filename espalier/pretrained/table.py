"""Key tables: which of their tensors is which of ours, and how it lies there."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from espalier.errors import UserError, nearest
from espalier.nn.gpt import GPTConfig, sketch
from espalier.pretrained.foreign import once


class Turn(NamedTuple):
    """A re-arrangement of a tensor, and back."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


SAME = Turn(lambda t: t, lambda t: t)
TRANSPOSED = Turn(lambda t: t.t(), lambda t: t.t())


class Row(NamedTuple):
    """One line of a table; `{i}` stands for the layer."""

    ours: str
    theirs: str
    turn: Turn = SAME


def both(ours: str, theirs: str, turn: Turn = SAME) -> list[Row]:
    """The rows of a weight and its bias; `turn` applies to the weight."""
    return [
        Row(f"{ours}.weight", f"{theirs}.weight", turn),
        Row(f"{ours}.bias", f"{theirs}.bias"),
    ]


def rows(table: Sequence[Row], config: GPTConfig) -> list[Row]:
    """The rows that a model of this configuration has, layer by layer; of what is shared, one."""
    have = set(once(sketch(config)).values())
    every = [
        Row(row.ours.format(i=i), row.theirs.format(i=i), row.turn)
        for row in table
        for i in range(config.n_layer if "{i}" in row.ours else 1)
    ]
    found = [row for row in every if row.ours in have]
    assert {row.ours for row in found} == have, "the table does not cover the model"
    return found


def to_ours(
    theirs: Mapping[str, Tensor], table: Sequence[Row], config: GPTConfig, where: str
) -> dict[str, Tensor]:
    """Our state dict in fp32.

    Raises UserError that names what is missing, left over, of another shape, or not finite.
    """
    shapes = {key: tensor.shape for key, tensor in sketch(config).state_dict().items()}
    wanted = rows(table, config)
    missing = [row.theirs for row in wanted if row.theirs not in theirs]
    spare = sorted(set(theirs) - {row.theirs for row in wanted})
    if missing:
        hint = nearest(missing[0], spare)
        raise UserError(f"{where}: {_some('missing', missing)}.{hint}")
    if spare:
        raise UserError(f"{where}: {_some('not part of the model', spare)}")
    found = {}
    for row in wanted:
        tensor = row.turn.to_ours(theirs[row.theirs]).float().contiguous()
        if tensor.shape != shapes[row.ours]:
            got, want = list(theirs[row.theirs].shape), list(shapes[row.ours])
            raise UserError(f"{where}: {row.theirs} is {got}, the configuration says {want}")
        if not tensor.isfinite().all():
            raise UserError(f"{where}: {row.theirs} holds NaN or infinity")
        found[row.ours] = tensor
    return found


def to_theirs(
    ours: Mapping[str, Tensor], table: Sequence[Row], config: GPTConfig
) -> dict[str, Tensor]:
    """Their state dict, from ours."""
    return {
        row.theirs: row.turn.to_theirs(ours[row.ours]).contiguous() for row in rows(table, config)
    }


def _some(what: str, keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3])
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} tensor{'s' * (len(keys) > 1)} {what}: {shown}{more}"
