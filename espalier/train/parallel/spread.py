"""How a model lies on the ranks: with one process, whole on each of them, or cut over all.

Whichever it is, the trainer sees plain tensors: `parameters` are those that this rank changes, and
after `settle` their gradients are those of the whole effective batch. They are sums over ranks: the
loss of each micro-batch is already divided by the targets of all of them.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from espalier.errors import UserError
from espalier.nn.gpt import GPT, GPTConfig
from espalier.nn.state import at
from espalier.run import MODEL, OPTIMIZER
from espalier.train import checkpoint
from espalier.train.parallel import pieces
from espalier.train.parallel.gathered import Build, Gathered
from espalier.train.parallel.ranks import ALONE, Ranks, here
from espalier.train.slots import Named, Optimizer

Made = TypeVar("Made")
PROBE = 16  # tokens that show which parameters have no gradient now and then


class Spread:
    """A model that one process has for itself."""

    in_pieces = False
    """whether each rank writes a part of a checkpoint"""

    def __init__(self, model: GPT, device: str, ranks: Ranks = ALONE):
        self.model, self.device, self.ranks = model, device, ranks
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())

    def run(self, work: Callable[..., Made], *inputs: Any) -> Made:
        """`work(*inputs)`, which may use the model: every forward pass goes through here."""
        return work(*inputs)

    def part(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        """Around a micro-batch, forward and backward; ranks meet in the last of an update."""
        return contextlib.nullcontext()

    def settle(self) -> None:
        """After the last micro-batch: gradients of the whole batch are in their places."""

    def square(self, grads: list[Tensor]) -> Tensor:
        """The squared length of all gradients together."""
        return torch.stack(torch._foreach_norm(grads)).square().sum()

    def norm(self, grads: list[Tensor]) -> Tensor:
        """The length of all gradients together."""
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return norm

    def held(self) -> dict[str, Tensor]:
        """What this rank has of the tensors of a checkpoint."""
        return checkpoint.kept(self.model)

    def optimizer(self, named: list[Named], build: Build) -> Optimizer:
        """The optimizer of the parameters that this rank changes."""
        return build(named)

    def load(self, folder: Path, optimizer: Optimizer) -> None:
        """Take weights and moments from a checkpoint, whoever wrote it."""
        checkpoint.load_model(self.model, folder)
        checkpoint.load_optimizer(optimizer, folder)

    def whole(self, config: GPTConfig) -> GPT | None:
        """The model, on the one rank that writes samples; elsewhere None. Called by all."""
        return self.model if self.ranks.leads else None


class Through(nn.Module):
    """Gives whatever uses the model a `forward`, which is where DDP and FSDP2 take hold."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[..., Any], *inputs: Any) -> Any:
        return work(*inputs)


class Replicated(Spread):
    """Whole on each rank; gradients are added up while the backward pass goes on (DDP)."""

    def __init__(self, model: GPT, device: str, ranks: Ranks, block_size: int):
        from torch.nn.parallel import DistributedDataParallel

        super().__init__(model, device, ranks)
        some = bool(unused(model, block_size))
        self.through = DistributedDataParallel(Through(model), find_unused_parameters=some)
        self.through.register_comm_hook(None, _add_up)

    def run(self, work: Callable[..., Made], *inputs: Any) -> Made:
        if not torch.is_grad_enabled():
            return work(*inputs)
        made: Made = self.through(work, *inputs)
        return made

    def part(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if last else self.through.no_sync()


def _add_up(
    state: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """The sum, where DDP alone would take the mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


class Sharded(Spread):
    """Each rank holds a stretch of the rows of every tensor, and its moments (FSDP2).

    A layer is put together while it computes. What stands in no layer, or in several, is put
    together for the whole step, and scalars are whole on every rank. Optimizers change the
    stretches, as plain tensors, or where they look at whole matrices one owner's copies.
    """

    in_pieces = True

    def __init__(self, model: GPT, device: str, ranks: Ranks, block_size: int):
        if found := unused(model, block_size):
            raise UserError(
                f"not every batch has a gradient for {found[0]}, which train.parallel=fsdp cannot "
                "add up: take train.parallel=ddp"
            )
        self.model, self.device, self.ranks = model, device, ranks
        self.scalars = {n: p for n, p in model.named_parameters() if p.ndim == 0}
        self.root = _sharded(model, set(self.scalars.values()), device, ranks.count)
        # DTensors; while a layer is together, FSDP2 has others in their places
        self.cut: dict[str, Any] = {
            name: p for name, p in model.named_parameters() if name not in self.scalars
        }
        self.parameters = own = {
            name: self.scalars[name] if name in self.scalars else _leaf(p)
            for name, p in model.named_parameters()
        }
        self._zero = torch.zeros((), device=device, dtype=next(iter(own.values())).dtype)
        self._held = {n: own.get(n, t) for n, t in checkpoint.tensors(model).items()}

    def run(self, work: Callable[..., Made], *inputs: Any) -> Made:
        made: Made = self.root(work, *inputs)
        return made

    def part(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        self.root.set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def settle(self) -> None:
        for name, cut in self.cut.items():
            if cut.grad is not None:
                self.parameters[name].grad = cut.grad.to_local()
                cut.grad = None
        if trained := [p for p in self.scalars.values() if p.requires_grad]:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
            for parameter, grad in zip(trained, self.ranks.sum(torch.stack(grads)), strict=True):
                parameter.grad = grad.clone()

    def square(self, grads: list[Tensor]) -> Tensor:
        mine = [grad for grad in grads if grad.ndim and grad.numel()]
        length = super().square(mine) if mine else torch.zeros_like(self._zero)
        everywhere = [grad for grad in grads if not grad.ndim]
        return self.ranks.sum(length) + (super().square(everywhere) if everywhere else self._zero)

    def norm(self, grads: list[Tensor]) -> Tensor:
        return self.square(grads).sqrt()

    def held(self) -> dict[str, Tensor]:
        """The first rank's has what is not cut, too."""
        found = {name: tensor.detach() for name, tensor in self._held.items()}
        return found if self.ranks.leads else {n: t for n, t in found.items() if n in self.cut}

    def optimizer(self, named: list[Named], build: Build) -> Optimizer:
        scrap = Named("scrap", nn.Parameter(torch.zeros(1, 1)), "matrix")
        if not build([scrap]).by_matrix:
            return build(named)
        shapes = {one.name: self._shape(one.name) for one in named}
        return Gathered(named, shapes, self.ranks, build)

    def _shape(self, name: str) -> torch.Size:
        """Of the whole tensor."""
        return torch.Size(self.cut[name].shape if name in self.cut else ())

    def load(self, folder: Path, optimizer: Optimizer) -> None:
        checkpoint.require_optimizer(folder)
        with pieces.opened(folder / MODEL) as stored:
            mine = {n: self._own(stored[n]) if n in self.cut else stored[n] for n in stored}
        checkpoint.fill(self._held, mine, str(folder / MODEL))
        with pieces.opened(folder / OPTIMIZER) as stored:
            if isinstance(optimizer, Gathered):
                optimizer.load(stored)
            else:
                optimizer.load({name: self._own(stored[name]) for name in stored})

    def whole(self, config: GPTConfig) -> GPT | None:
        held: dict[str, Tensor] = {}
        for name, tensor in self._held.items():
            one = self.cut[name].detach().full_tensor() if name in self.cut else tensor
            if self.ranks.leads:
                held[name] = one.cpu()
        if not self.ranks.leads:
            return None
        made = config.build()
        checkpoint.fill(checkpoint.tensors(made), held, "the model")
        return made.to(self.device)

    def _own(self, whole: Tensor) -> Tensor:
        return pieces.own(whole, self.ranks.rank, self.ranks.count)


def _sharded(model: GPT, whole: set[nn.Parameter], device: str, count: int) -> Any:
    """The model with its layers and then the rest of it cut; what each forward goes through."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(torch.device(device).type, (count,))
    for layer in layers(model):
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    root: Any = fully_shard(Through(model), mesh=mesh, ignored_params=whole)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # sums, not means
            module.set_force_sum_reduction_for_comms(True)
    for tensor in itertools.chain(whole, model.buffers()):
        tensor.data = tensor.data.to(device)
    return root


def _leaf(cut: Any) -> nn.Parameter:
    """This rank's rows as a parameter of their own, over the same memory."""
    return nn.Parameter(cut.detach().to_local(), requires_grad=cut.requires_grad)


def layers(model: nn.Module) -> Iterator[nn.Module]:
    """The members of lists named `blocks`, but for those that share a tensor with others."""
    lists = [m for path, m in model.named_modules() if path.rpartition(".")[2] == "blocks"]
    found = [block for one in lists if isinstance(one, nn.ModuleList) for block in one]
    holders: dict[int, int] = {}
    for block in found:
        for parameter in block.parameters():
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for block in found:
        if all(holders[id(parameter)] == 1 for parameter in block.parameters()):
            yield block


def unused(model: GPT, block_size: int) -> list[str]:
    """Parameters to be trained that a short text gives no gradient."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    table = next(iter(trained.values()))
    ids = torch.zeros((1, min(PROBE, block_size)), dtype=torch.long, device=table.device)
    cards = [table.device.index] if table.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards), torch.enable_grad():
        now = at(ids)
        hidden = model.trunk(ids, now)
        total = sum(now.losses.values(), model.head(hidden).float().sum())
        wanted = list(trained.values())
        grads: list[Tensor | None] = [*torch.autograd.grad(total, wanted, allow_unused=True)]
    return [name for name, grad in zip(trained, grads, strict=True) if grad is None]


def home(device: str, wish: str) -> str:
    """Where a model is to be made: what is cut goes to its device layer by layer."""
    return "cpu" if wish == "fsdp" and here() is not ALONE else device


def spread(model: GPT, device: str, wish: str, block_size: int) -> Spread:
    """The model on the ranks as train.parallel says: auto is ddp, of which each holds it all."""
    ranks = here()
    if ranks is ALONE:
        return Spread(model, device)
    kind = Sharded if wish == "fsdp" else Replicated
    return kind(model, device, ranks, block_size)
