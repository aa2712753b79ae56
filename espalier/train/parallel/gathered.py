"""An optimizer that looks at whole matrices, where each rank holds some of their rows.

Every tensor has an owner among the ranks, so that all have about as much to do. The owner gets the
gradient's rows from all, makes the update on a whole copy, whose moments it alone keeps, and gives
the rows back. (The idea of distributed Muon, arXiv:2502.16982, for any optimizer of ours.)
"""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from espalier.train.parallel import pieces
from espalier.train.parallel.ranks import Ranks
from espalier.train.slots import Named, Optimizer

Build = Callable[[list[Named]], Optimizer]


class Gathered(Optimizer):
    """`build` is given this rank's own tensors, whole."""

    def __init__(
        self, named: list[Named], shapes: Mapping[str, torch.Size], ranks: Ranks, build: Build
    ):
        """`named`: the rows of this rank; `shapes`: of the whole tensors."""
        self.named, self.shapes, self.ranks = named, shapes, ranks
        self.owners = dealt([shapes[one.name].numel() for one in named], ranks.count)
        self.wholes = [
            nn.Parameter(one.tensor.new_empty(shapes[one.name])) if owner == ranks.rank else None
            for one, owner in zip(named, self.owners, strict=True)
        ]
        mine = zip(named, self.wholes, strict=True)
        self.inner = build([one._replace(tensor=whole) for one, whole in mine if whole is not None])
        self.copied = False

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        self._copy()
        self._collect()
        self.inner.step(learning_rate, scale, skip)
        for i, (one, whole) in enumerate(zip(self.named, self.wholes, strict=True)):
            self._give_back(i, one.tensor, whole)
            if whole is not None:
                whole.grad = None

    def curious(self) -> bool:
        return self.inner.curious()

    @torch.no_grad()
    def observe(self, scale: Tensor, count: int) -> None:
        self._copy()
        self._collect()
        self.inner.observe(scale, count)

    def state(self) -> dict[str, Tensor]:
        """Of this rank's own tensors."""
        self._copy()
        return self.inner.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """From whole tensors, of which it takes its own; the weights may be others than before."""
        self.copied = False
        self.inner.load({name: state[name] for name in self.state() if name in state})

    @torch.no_grad()
    def _copy(self) -> None:
        """Take over the weights, where something else than a step of ours has set them."""
        if self.copied:
            return
        self.copied = True
        for i, (one, whole) in enumerate(zip(self.named, self.wholes, strict=True)):
            found = self._gather(i, one.tensor.detach())
            if whole is not None and found is not None:
                whole.copy_(found)

    def _collect(self) -> None:
        for i, (one, whole) in enumerate(zip(self.named, self.wholes, strict=True)):
            assert one.tensor.grad is not None, f"{one.name} has no gradient"
            found = self._gather(i, one.tensor.grad)
            if whole is not None:
                whole.grad = found

    def _gather(self, place: int, mine: Tensor) -> Tensor | None:
        """The rows of all ranks, on the owner of the tensor."""
        shape, owner = self.shapes[self.named[place].name], self.owners[place]
        if not shape:
            return mine.clone() if owner == self.ranks.rank else None
        full = self._room(shape, mine)
        full[: len(mine)] = mine
        if owner != self.ranks.rank:
            dist.gather(full, None, owner)
            return None
        parts = [torch.empty_like(full) for _ in range(self.ranks.count)]
        dist.gather(full, parts, owner)
        return torch.cat(parts)[: shape[0]]

    def _give_back(self, place: int, mine: Tensor, whole: Tensor | None) -> None:
        """The owner's new weights, to those who hold them."""
        shape, owner = self.shapes[self.named[place].name], self.owners[place]
        if not shape:
            mine.copy_(mine if whole is None else whole)
            dist.broadcast(mine, owner)
            return
        full = self._room(shape, mine)
        parts = None
        if whole is not None:
            rows = torch.zeros(len(full) * self.ranks.count, *shape[1:]).to(whole)
            rows[: shape[0]] = whole
            parts = list(rows.chunk(self.ranks.count))
        dist.scatter(full, parts, owner)
        mine.copy_(full[: len(mine)])

    def _room(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Room for the longest stretch of rows that a rank has."""
        longest = pieces.stretch(shape[0], 0, self.ranks.count).stop
        return like.new_zeros(longest, *shape[1:])


def dealt(sizes: list[int], count: int) -> list[int]:
    """An owner for each size, the largest first, always to whoever has least."""
    owners, held = [0] * len(sizes), [0] * count
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[place] = min(range(count), key=lambda rank: held[rank])
        held[owners[place]] += sizes[place]
    return owners
