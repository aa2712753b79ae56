"""Parameters, floating-point operations and memory of a model, counted on the meta device."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from espalier.errors import ConfigError
from espalier.nn.gpt import GPT
from espalier.nn.slots import Embed, Front, roles, unused
from espalier.nn.state import Pass, at, seeing


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; shared ones count once."""

    total: int
    by_role: dict[str, int]
    by_part: dict[str, int]  # children of the trunk, and the head
    products: int  # in matrix products: matrices, and the table that the head multiplies with
    unused: int  # of the total, read by no forward pass

    @property
    def live(self) -> int:
        return self.total - self.unused


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token of a full window; causal attention as the full square."""

    forward: int
    train: int  # forward and backward
    window: int


@dataclass(frozen=True)
class Memory:
    """Bytes while training in fp32 (weights, gradients, two moments) and what one batch keeps."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def parameters(model: nn.Module) -> Parameters:
    """Count a GPT's parameters by role and by part."""
    role = roles(model)
    named = dict(model.named_parameters())
    by_role, by_part = Counter[str](), Counter[str]()
    for name, parameter in named.items():
        by_role[role[name]] += parameter.numel()
        by_part[".".join(name.split(".")[: 2 if name.startswith("trunk.") else 1])] += (
            parameter.numel()
        )
    idle = {name: named[name].numel() for name in unused(model)}
    products = sum(named[name].numel() for name in multiplied(model) if name not in idle)
    total = sum(by_role.values())
    return Parameters(total, dict(by_role), dict(by_part), products, sum(idle.values()))


def multiplied(model: nn.Module) -> list[str]:
    """The parameters in matrix products: matrices, and the table that the head multiplies with."""
    role, named = roles(model), dict(model.named_parameters())
    tables = [n for n in named if n.startswith("head.") and role[n] == "embedding"]
    if not tables:  # the head reads the embedding's, whose matrices are matrices anyway
        read = {id(p) for p in cast(Embed, model.get_submodule("trunk.embed")).read()}
        tables = [n for n, p in named.items() if id(p) in read and role[n] == "embedding"]
    return [*(n for n in named if role[n] == "matrix"), *tables]


def flops(model: nn.Module, window: int) -> Flops:
    """Operations per token over a window of `window` tokens; `model` lies on the meta device."""
    ids = torch.zeros(1, window, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits: Tensor = model(ids)
        forward = counter.get_total_flops()
        logits.sum().backward()  # type: ignore[no-untyped-call]
    train = counter.get_total_flops()
    model.zero_grad(set_to_none=True)
    return Flops(forward // window, train // window, window)


def memory(model: GPT, rows: int, window: int, side: int = 0) -> Memory:
    """Predict the training memory of a batch. `model` must lie on the meta device.

    What is frozen has neither gradient nor moments. With `side` each row begins with an image of so
    many pixels a side. Activations are the tensors that a forward pass in fp32 saves for the
    backward, counted once each; a precision below fp32 needs less, and the allocator adds some.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    own = {_storage(p) for p in model.parameters()}
    ids = torch.zeros(rows, window, dtype=torch.long, device="meta")
    now = _showing(at(ids), model.trunk.front, side) if side else at(ids)
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor
        return tensor

    unpack: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with _FusedAttention(), torch.autograd.graph.saved_tensors_hooks(keep, unpack):
        model(ids, now)
    activations = sum(t.untyped_storage().nbytes() for t in saved.values())
    return Memory(weights, trained, 2 * trained, activations)


class _FusedAttention(TorchFunctionMode):
    """Torch's attention as a device runs it: on meta it would keep a square of all positions."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attended.apply(*args[:3])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Attended(torch.autograd.Function):
    """Queries, keys, values and what comes out are kept, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise AssertionError("for counting alone")


def _showing(now: Pass, front: Front | None, side: int) -> Pass:
    """Each row of the pass beginning with one image."""
    assert front is not None, "images, but the model reads none"
    rows, window = now.positions.shape
    image = torch.zeros(3, side, side, device="meta"), None
    count = front.count(image)
    if count > window:
        raise ConfigError(f"an image of {side} pixels takes {count} tokens, a row has {window}")
    place = torch.arange(window, device="meta").expand(rows, -1)
    return seeing(now, [image] * rows, torch.where(place < count, place, -1))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
