"""Maps that are block-diagonal over branches, on (batch, time, branches, width).

Memory lies in that order where the kernel of `native/branches.cpp` works, else branch by branch, so
that a map is one batched product over contiguous matrices. Weights are kept as a grouped
convolution keeps them: (branches * out, in) or (branches * out, in, taps), rows branch by branch.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.native import branches as native
from espalier.nn.slots import Dims, Part, fused
from espalier.nn.state import Pass, Tail

FEW = 32  # tokens, below which laying out the weights costs more than the kernel gains


def split(x: Float[Tensor, "batch time width"], branches: int) -> Tensor:
    """(batch, time, branches, width / branches), a view."""
    return x.view(*x.shape[:2], branches, -1)


def join(x: Float[Tensor, "batch time branches each"]) -> Float[Tensor, "batch time width"]:
    """The inverse of `split`."""
    return x.flatten(2)


class BranchLinear(Part):
    """A matrix and a bias for each branch."""

    def __init__(self, branches: int, n_in: int, n_out: int, dims: Dims):
        super().__init__()
        self.branches, self.std = branches, dims.std
        self.fused = True
        self.weight = nn.Parameter(torch.empty(branches * n_out, n_in))
        self.bias = nn.Parameter(torch.empty(branches * n_out)) if dims.bias else None
        fused(self, [n_out] * branches)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "batch time branches n_in"], now: Pass
    ) -> Float[Tensor, "batch time branches n_out"]:
        if self.fused and native.serves(x, self.weight) and x.shape[:2].numel() >= FEW:
            return native.project(x, self.weight, self.bias)
        return product(x, self.weight, self.bias)


class BranchConv(Part):
    """A causal convolution in each branch, dense over its features.

    Index `taps - 1` of the weight multiplies the token itself, index 0 the one `taps - 1` before.
    """

    def __init__(self, branches: int, width: int, taps: int, dims: Dims):
        super().__init__()
        self.branches, self.taps, self.std = branches, taps, dims.std
        self.fused = True
        self.weight = nn.Parameter(torch.empty(branches * width, width, taps))
        self.bias = nn.Parameter(torch.empty(branches * width)) if dims.bias else None
        fused(self, [width] * branches)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "batch time width"], now: Pass
    ) -> Float[Tensor, "batch time branches each"]:
        """x split, plus its convolution."""
        a = split(x, self.branches)
        whole = now.states is None and not now.packed
        if self.fused and whole and native.serves(a, self.weight):
            return native.project(a, self.weight, self.bias, residual=True)
        if self.fused and whole:
            weight = self.weight.to(x.dtype)
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return _Convolution.apply(a, weight, bias)[0]  # type: ignore[no-untyped-call, no-any-return]
        state = now.state(Tail.empty, x, self.taps - 1)
        if state is None:
            past = F.pad(x, (0, 0, self.taps - 1, 0))
        else:
            past = state.extend(x, now.positions).to(x.dtype)
        windows = split(past, self.branches).unfold(1, self.taps, 1)  # (..., branches, each, taps)
        if now.packed:  # a tap that reaches before its document finds nothing
            back = torch.arange(self.taps - 1, -1, -1, device=x.device)
            windows = windows * (now.positions[..., None] >= back)[:, :, None, None]
        return a + product(windows.flatten(3), self.weight.flatten(1), self.bias)


class BranchNorm(Part):
    """Layer normalisation of each branch by itself, position by position; gains are its own."""

    special = {"sqrt": 0, "divide": 0}
    passes = 2

    def __init__(self, branches: int, width: int, dims: Dims, eps: float = 1e-5):
        super().__init__()
        self.branches, self.eps = branches, eps
        self.weight = nn.Parameter(torch.empty(branches * width))
        self.bias = nn.Parameter(torch.empty(branches * width)) if dims.bias else None

    def reset(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "batch time branches each"], now: Pass
    ) -> Float[Tensor, "batch time branches each"]:
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        gain = self.weight.to(y.dtype).view(self.branches, -1)
        if self.bias is None:
            return y * gain
        return torch.addcmul(self.bias.to(y.dtype).view_as(gain), y, gain)


def product(
    x: Float[Tensor, "batch time branches n_in"],
    weight: Float[Tensor, "rows n_in"],
    bias: Float[Tensor, " rows"] | None,
) -> Float[Tensor, "batch time branches n_out"]:
    """A matrix and a bias for each branch."""
    branches = x.shape[2]
    rows = x.permute(2, 0, 1, 3).flatten(1, 2)
    each = weight.view(branches, -1, weight.shape[1])
    if bias is None:
        y = torch.bmm(rows, each.mT)
    else:
        y = torch.baddbmm(bias.view(branches, 1, -1), rows, each.mT)
    return y.view(branches, *x.shape[:2], -1).permute(1, 2, 0, 3)


class _Convolution(torch.autograd.Function):
    """Convolution and gradient as batched products over windows, with few passes over memory.

    A window of contiguous tokens is a contiguous run of memory, so that all windows are a view with
    overlapping rows; torch's own gradient of such a view would scatter number by number.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        branches, taps = x.shape[2], weight.shape[2]
        past = _padded(x.permute(2, 0, 1, 3), taps - 1, 0)
        start = past[:, :, taps - 1 :]
        if bias is not None:
            start = start + bias.view(branches, 1, 1, -1)
        matrix = _by_branch(weight, branches).transpose(2, 3)  # in order of the windows
        y = torch.baddbmm(start.flatten(1, 2), _windows(past, taps), matrix.flatten(2).mT)
        return y.view(start.shape).permute(1, 2, 0, 3), past

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.biased = inputs[2] is not None
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        past, weight = ctx.saved_tensors
        branches, taps = past.shape[0], weight.shape[2]
        # autocast may have made the products, and so their gradients, shorter than the input
        grad = grads[0].to(past.dtype).permute(2, 0, 1, 3).contiguous()
        rows = grad.flatten(1, 2)
        # a token is heard by itself and by the next ones: the same windows, on the gradient
        matrix = _by_branch(weight, branches).flip(3).permute(0, 2, 3, 1).flatten(2)
        heard = _windows(_padded(grad, 0, taps - 1), taps)
        to_x = torch.baddbmm(rows, heard, matrix.mT).view(grad.shape).permute(1, 2, 0, 3)
        products = torch.bmm(rows.mT, _windows(past, taps))
        to_weight = products.view(*products.shape[:2], taps, -1).transpose(2, 3).flatten(0, 1)
        return to_x, to_weight, rows.sum(1).flatten() if ctx.biased else None


def _by_branch(weight: Tensor, branches: int) -> Tensor:
    return weight.view(branches, -1, *weight.shape[1:])


def _padded(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros before and after the tokens of each (branches, batch, time, each)."""
    branches, batch, time, each = x.shape
    y = x.new_zeros(branches, batch, before + time + after, each)
    y[:, :, before : before + time] = x
    return y


def _windows(x: Tensor, taps: int) -> Tensor:
    """Runs of `taps` tokens, side by side: (branches, batch * (time - taps + 1), taps * each)."""
    branches, batch, time, each = x.shape
    shape = (branches, batch, time - taps + 1, taps * each)
    return x.as_strided(shape, (*x.stride()[:2], each, 1)).flatten(1, 2)
