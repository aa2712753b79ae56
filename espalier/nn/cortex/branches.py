"""Maps that are block-diagonal over branches.

Between `split` and `join` the branch comes first, (branches, batch, time, width), so that each map
is one batched product over contiguous matrices. Weights are kept as a grouped convolution keeps
them: (branches * out, in) or (branches * out, in, taps), rows branch by branch.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.nn.slots import Dims, Part, fused
from espalier.nn.state import Pass, Tail


def split(x: Float[Tensor, "batch time width"], branches: int) -> Tensor:
    """(branches, batch, time, width / branches), contiguous."""
    return x.reshape(*x.shape[:2], branches, -1).permute(2, 0, 1, 3).contiguous()


def join(x: Float[Tensor, "branches batch time each"]) -> Float[Tensor, "batch time width"]:
    """The inverse of `split`."""
    return x.permute(1, 2, 0, 3).flatten(2)


class BranchLinear(Part):
    """A matrix and a bias for each branch."""

    def __init__(self, branches: int, n_in: int, n_out: int, dims: Dims):
        super().__init__()
        self.branches, self.std = branches, dims.std
        self.weight = nn.Parameter(torch.empty(branches * n_out, n_in))
        self.bias = nn.Parameter(torch.empty(branches * n_out)) if dims.bias else None
        fused(self, [n_out] * branches)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "branches batch time n_in"], now: Pass
    ) -> Float[Tensor, "branches batch time n_out"]:
        weight = self.weight.view(self.branches, -1, x.shape[-1])
        return product(x.flatten(1, 2), weight, self.bias).view(*x.shape[:3], -1)


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
    ) -> tuple[
        Float[Tensor, "branches batch time each"], Float[Tensor, "branches batch time each"]
    ]:
        """x split, and x split plus its convolution."""
        weight = self.weight.view(self.branches, -1, *self.weight.shape[1:])
        if self.fused and now.states is None and not now.packed:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            a, c, _ = _Convolution.apply(x, weight.to(x.dtype), bias)  # type: ignore[no-untyped-call]
            return a, c
        state = now.state(Tail.empty, x, self.taps - 1)
        if state is None:
            past = F.pad(x, (0, 0, self.taps - 1, 0))
        else:
            past = state.extend(x, now.positions).to(x.dtype)
        past = split(past, self.branches)
        a = past[:, :, self.taps - 1 :]
        windows = past.unfold(2, self.taps, 1)  # (branches, batch, time, each, taps)
        if now.packed:  # a tap that reaches before its document finds nothing
            back = torch.arange(self.taps - 1, -1, -1, device=x.device)
            windows = windows * (now.positions[..., None] >= back)[:, :, None]
        y = product(windows.flatten(3).flatten(1, 2), weight.flatten(2), self.bias)
        return a, a + y.view(a.shape)


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
        self, x: Float[Tensor, "branches batch time each"], now: Pass
    ) -> Float[Tensor, "branches batch time each"]:
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        gain = self.weight.to(y.dtype).view(self.branches, 1, 1, -1)
        if self.bias is None:
            return y * gain
        return torch.addcmul(self.bias.to(y.dtype).view_as(gain), y, gain)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(branches, rows, in) times (branches, out, in), and a bias (branches * out)."""
    if bias is None:
        return torch.bmm(x, weight.mT)
    return torch.baddbmm(bias.view(weight.shape[0], 1, -1), x, weight.mT)


class _Convolution(torch.autograd.Function):
    """Convolution and gradient as batched products over windows, with few passes over memory.

    A window of contiguous tokens is a contiguous run of memory, so that all windows are a view with
    overlapping rows; torch's own gradient of such a view would scatter number by number.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        branches, out, _, taps = weight.shape
        past = _padded(x.view(*x.shape[:2], branches, -1).permute(2, 0, 1, 3), taps - 1, 0)
        a = past[:, :, taps - 1 :].contiguous()
        matrix = weight.transpose(2, 3).reshape(branches, out, -1)  # in order of the windows
        start = a if bias is None else a + bias.view(branches, 1, 1, -1)
        c = torch.baddbmm(start.flatten(1, 2), _windows(past, taps), matrix.mT)
        return a, c.view(a.shape), past

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        ctx.biased = inputs[2] is not None
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(output[2], inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        past, weight = ctx.saved_tensors
        # autocast may have made the products, and so their gradients, shorter than the input
        plain, grad = (g.to(past.dtype).contiguous() for g in grads[:2])
        branches, out, _, taps = weight.shape
        # a token is heard by itself and by the next ones: the same windows, on the gradient
        matrix = weight.flip(3).permute(0, 2, 3, 1).reshape(branches, -1, taps * out)
        heard = _windows(_padded(grad, 0, taps - 1), taps)
        to_a = torch.baddbmm((plain + grad).flatten(1, 2), heard, matrix.mT).view(grad.shape)
        rows = grad.flatten(1, 2)
        to_weight = torch.bmm(rows.mT, _windows(past, taps)).view(branches, out, taps, -1)
        return join(to_a), to_weight.transpose(2, 3), rows.sum(1).flatten() if ctx.biased else None


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
