"""Root-mean-square normalisation on a CPU as an operator of torch, from `rms.cpp`."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import define, differentiate, fits, like


class _Rows(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("outer", ctypes.c_long), ("inner", ctypes.c_long))


class _Shape(ctypes.Structure):
    _fields_ = (
        ("outer", ctypes.c_long),
        ("inner", ctypes.c_long),
        ("width", ctypes.c_long),
        ("eps", ctypes.c_float),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


ready = False  # until build.prepare


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return ready and fits(x)


def normalise(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps), times an fp32 gain (width), over the last dimension."""
    out: Tensor = torch.ops.espalier.rms_norm(x, gain, eps)[0]
    return out


def _forward(x: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    x = _regular(x)
    out, scale = _meta(x, gain, eps)
    _call("rms_forward", _shape(x, eps), [x], gain, out, scale)
    return out, scale


def _backward(grad: Tensor, x: Tensor, gain: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
    x, grad = _regular(x), _regular(grad.to(x.dtype))
    dx, shape = like(x), _shape(x, 0.0)
    sums = torch.zeros(shape.threads if gain is not None else 0, x.shape[-1])
    last = sums if gain is not None else None
    _call("rms_backward", shape, [grad, x], gain, scale, dx, last)
    return dx, sums.sum(0)


def _call(name: str, shape: _Shape, views: Sequence[Tensor], *tensors: Tensor | None) -> None:
    """Views go with their strides; None is the null pointer."""
    rows = [ctypes.byref(_rows(x)) for x in views]
    pointers = [None if x is None else x.data_ptr() for x in tensors]
    kernel = function("rms", name, *[ctypes.c_void_p] * (1 + len(rows) + len(pointers)))
    kernel(ctypes.byref(shape), *rows, *pointers)


def _regular(x: Tensor) -> Tensor:
    """As rows of (outer, inner): all dimensions but the last two must lie as one."""
    if x.stride(-1) != 1:
        return x.contiguous()
    steps, sizes = x.stride()[:-1], x.shape[:-1]
    one = all(steps[i] == steps[i + 1] * sizes[i + 1] for i in range(len(steps) - 2))
    return x if one else x.contiguous()


def _shape(x: Tensor, eps: float) -> _Shape:
    inner = x.shape[-2] if x.ndim > 1 else 1
    outer = x.numel() // max(1, inner * x.shape[-1])
    bf16 = x.dtype == torch.bfloat16
    return _Shape(outer, inner, x.shape[-1], eps, bf16, torch.get_num_threads())


def _rows(x: Tensor) -> _Rows:
    outer = x.stride(-3) if x.ndim > 2 else 0
    inner = x.stride(-2) if x.ndim > 1 else 0
    return _Rows(x.data_ptr(), outer, inner)


def _meta(x: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _meta_backward(
    grad: Tensor, x: Tensor, gain: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor]:
    return like(x), x.new_empty(x.shape[-1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gain, _ = inputs
    ctx.save_for_backward(x, gain, output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, gain, scale = ctx.saved_tensors
    dx, dgain = torch.ops.espalier.rms_norm_backward(grad, x, gain, scale)
    return dx, None if gain is None else dgain, None


define("rms_norm(Tensor x, Tensor? gain, float eps) -> (Tensor, Tensor)", _forward, _meta)
define(
    "rms_norm_backward(Tensor grad, Tensor x, Tensor? gain, Tensor scale) -> (Tensor, Tensor)",
    _backward,
    _meta_backward,
)
differentiate("rms_norm", _differentiate, _save)
