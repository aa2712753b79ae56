"""What a model's weights are multiplied with, watched while it reads calibration text.

The products themselves are watched, not the modules: whichever part calls `linear`, `conv1d` or
`bmm` with one of its parameters, or a view of it, is understood.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from espalier.compress.slots import Job
from espalier.nn.gpt import GPT

TOGETHER = 8192  # tokens in one pass


class Watch(TorchFunctionMode):
    """Sums over all tokens of x x^T (or of its diagonal) for each weight.

    `found[name]` is (groups, columns[, columns]) in fp32: a grouped convolution is as many maps
    side by side, each with the inputs of all its taps as columns.
    """

    def __init__(self, weights: Mapping[str, Tensor], gather: Callable[[Tensor], Tensor]):
        super().__init__()
        self.names = {_storage(weight): name for name, weight in weights.items()}
        self.gather = gather
        self.found: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _KNOWN:
            at, see = _KNOWN[func]
            name = self.names.get(_storage(args[at])) if len(args) > at else None
            inputs = see(*args, **(kwargs or {})) if name is not None else None
            if name is not None and inputs is not None:
                self._add(name, inputs)
        return result

    def _add(self, name: str, inputs: Float[Tensor, "groups n columns"]) -> None:
        new = self.gather(inputs.float())
        self.found[name] = self.found[name] + new if name in self.found else new


def squares(x: Float[Tensor, "groups n columns"]) -> Float[Tensor, "groups columns"]:
    return x.square().sum(1)


def products(x: Float[Tensor, "groups n columns"]) -> Float[Tensor, "groups columns columns"]:
    return x.transpose(1, 2) @ x


def _of_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.reshape(1, -1, x.shape[-1])


def _of_product(x: Tensor, weight: Tensor) -> Tensor | None:
    """(groups, n, columns) times W.mT, a view of (groups, rows, columns); None for another view."""
    return x if weight.ndim == 3 and weight.mT.is_contiguous() else None


def _of_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Every window, by group: (groups, n, channels * taps); None where it strides or dilates."""
    pad = padding[0] if isinstance(padding, (tuple, list)) else padding
    if any(value not in (1, (1,), [1]) for value in (stride, dilation)) or isinstance(pad, str):
        return None
    windows = F.pad(x, (pad, pad)).unfold(2, weight.shape[2], 1)  # batch channel n tap
    batch, channels, n, taps = windows.shape
    parted = windows.reshape(batch, groups, channels // groups, n, taps)
    return parted.permute(1, 0, 3, 2, 4).reshape(groups, batch * n, -1)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# Product -> which argument is the weight, and its inputs (groups, n, columns) as rows meet them.
_KNOWN: dict[Any, tuple[int, Callable[..., Tensor | None]]] = {
    F.linear: (1, _of_linear),
    torch.bmm: (1, _of_product),
    torch.baddbmm: (2, lambda bias, x, weight, **scales: _of_product(x, weight)),
    torch.conv1d: (1, _of_convolution),
}


@torch.no_grad()
def watch(
    model: GPT, weights: Mapping[str, Tensor], job: Job, gather: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """What `gather` makes of each weight's inputs while the model reads the calibration text."""
    device = next(model.parameters()).device
    rows = max(1, TOGETHER // job.text.shape[1])
    was = model.training
    model.eval()
    try:
        with plainly(model), Watch(weights, gather) as seen:
            for ids in torch.split(job.text, rows):
                model(ids.to(device))
    finally:
        model.train(was)
    found: dict[str, Tensor] = seen.found
    return found


@contextlib.contextmanager
def plainly(model: GPT) -> Iterator[None]:
    """Within, parts go their reference way, where every weight meets its inputs as it is."""
    quick = [part for part in model.modules() if getattr(part, "fused", False) is True]
    for part in quick:
        setattr(part, "fused", False)  # noqa: B010
    try:
        yield
    finally:
        for part in quick:
            setattr(part, "fused", True)  # noqa: B010


def norms(
    model: GPT, weights: Mapping[str, Tensor], job: Job
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The 2-norm of the input that each weight meets, shaped to multiply with the weight.

    Where it was not seen it is 1 for all; those weights are named.
    """
    seen = watch(model, weights, job, squares)
    found = {}
    for name, weight in weights.items():
        if name in seen:
            found[name] = _beside(seen[name].sqrt(), weight)
        else:
            found[name] = torch.ones_like(weight)
    return found, tuple(name for name in weights if name not in seen)


def _beside(norm: Float[Tensor, "groups columns"], weight: Tensor) -> Tensor:
    """Spread over the rows of each group."""
    groups = norm.shape[0]
    rows = norm[:, None].expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape)
