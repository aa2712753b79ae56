"""Block-diagonal maps on a CPU as an operator of torch, from `branches.cpp`."""

import ctypes
from math import prod
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import View, define, differentiate, like, lined


class _Shape(ctypes.Structure):
    _fields_ = (
        ("sizes", ctypes.c_long * 6),  # batch, time, branches, in, out, taps
        ("bf16", ctypes.c_int),
        ("residual", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


ready = False  # until build.prepare


def serves(x: Tensor, weight: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return (
        ready
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and weight.dtype in (torch.float32, torch.bfloat16)
        and x.shape[-1] % 2 == 0
        and weight.shape[0] // x.shape[-2] % 2 == 0
    )


def project(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool = False) -> Tensor:
    """(batch, time, branches, in) times (branches * out, in), or a convolution with
    (branches * out, in, taps); weights fp32 or bf16. With `residual`, x is added (in = out)."""
    out: Tensor = torch.ops.espalier.branches(x, weight, bias, residual)
    return out


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    x, weight, out = lined(x), weight.contiguous(), _meta(x, weight, bias, residual)
    last = None if bias is None else bias.to(weight.dtype).contiguous()
    _call("branches_forward", _shape(x, weight, residual), x, weight, last, out)
    return out


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, biased: bool, residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, grad, weight = lined(x), lined(grad.to(x.dtype)), weight.contiguous()
    shape, dx = _shape(x, weight, residual), like(x)
    dw, db = (torch.empty(n, dtype=torch.float32) for n in (weight.shape, len(weight) * biased))
    _call("branches_backward", shape, grad, x, weight, dx, dw, db if biased else None)
    return dx, dw.to(weight.dtype), db


def _call(name: str, shape: _Shape, *tensors: Tensor | None) -> None:
    """What has four dimensions goes as a strided view, else as a pointer."""
    kernel = function("branches", name, *[ctypes.c_void_p] * (1 + len(tensors)))
    given = [
        None if t is None else ctypes.byref(View.of(t)) if t.ndim == 4 else t.data_ptr()
        for t in tensors
    ]
    if kernel(ctypes.byref(shape), *given) != 0:
        raise MemoryError("branches: no memory for its scratch space")


def _shape(x: Tensor, weight: Tensor, residual: bool) -> _Shape:
    batch, time, branches, n_in = x.shape
    taps = weight.shape[2] if weight.ndim == 3 else 1
    sizes = (ctypes.c_long * 6)(batch, time, branches, n_in, len(weight) // branches, taps)
    return _Shape(sizes, weight.dtype == torch.bfloat16, residual, torch.get_num_threads())


def _meta(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:3], weight.shape[0] // x.shape[2])


def _meta_backward(
    grad: Tensor, x: Tensor, weight: Tensor, biased: bool, residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return like(x), like(weight), x.new_empty(len(weight) * biased, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.residual = inputs
    ctx.bias = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    biased = ctx.bias is not None
    made = torch.ops.espalier.branches_backward(grad, *ctx.saved_tensors, biased, ctx.residual)
    dx, dw, db = made
    return dx, dw, db.to(ctx.bias) if biased else None, None


define("branches(Tensor x, Tensor weight, Tensor? bias, bool residual) -> Tensor", _forward, _meta)
define(
    "branches_backward(Tensor grad, Tensor x, Tensor weight, bool biased, bool residual)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _meta_backward,
)
differentiate("branches", _differentiate, _save)


def count_flops() -> None:
    """Teach torch's FLOP counter this operator."""
    from torch.utils.flop_counter import register_flop_formula

    def forward(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        return int(2 * prod(x[:2]) * prod(weight))

    def backward(grad: Any, *shapes: Any, **__: Any) -> int:
        return 2 * forward(*shapes[:2])

    register_flop_formula(torch.ops.espalier.branches)(forward)
    register_flop_formula(torch.ops.espalier.branches_backward)(backward)
