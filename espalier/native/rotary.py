"""Rotary positions on a CPU as an operator of torch, from `rotary.cpp`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import View, define, differentiate, fits, like, lined


class _Shape(ctypes.Structure):
    _fields_ = (
        ("sizes", ctypes.c_long * 6),
        ("sign", ctypes.c_float),
        ("bf16", ctypes.c_int),
        ("interleaved", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


ready = False  # until build.prepare


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such queries or keys?"""
    return ready and fits(x) and x.ndim == 4


def turn(x: Tensor, cos: Tensor, sin: Tensor, stride: int) -> Tensor:
    """Turn the first features of (batch, time, heads, width) by fp32 tables.

    Tables are (batch or 1, time, 1, turned / 2); pairs are the two halves of what is turned
    (stride 1), or neighbours (stride 2).
    """
    out: Tensor = torch.ops.espalier.rotary(x, cos, sin, stride, 1.0)
    return out


def _turn(x: Tensor, cos: Tensor, sin: Tensor, stride: int, sign: float) -> Tensor:
    x, cos, sin = lined(x), _table(cos), _table(sin)
    b, t, heads, width = x.shape
    out = like(x)
    sizes = (ctypes.c_long * 6)(b, t, heads, width, 2 * cos.shape[-1], cos.shape[0])
    threads = torch.get_num_threads()
    shape = _Shape(sizes, sign, x.dtype == torch.bfloat16, stride == 2, threads)
    pointers = [tensor.data_ptr() for tensor in (cos, sin, out)]
    kernel = function("rotary", "rotary", *[ctypes.c_void_p] * 5)
    kernel(ctypes.byref(shape), ctypes.byref(View.of(x)), *pointers)
    return out


def _table(table: Tensor) -> Tensor:
    """Rows that are all one (positions expanded over the batch) are read once."""
    return (table[:1] if table.stride(0) == 0 else table).contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.stride, ctx.sign = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    back = torch.ops.espalier.rotary(grad, *ctx.saved_tensors, ctx.stride, -ctx.sign)
    return back, None, None, None, None


define("rotary(Tensor x, Tensor cos, Tensor sin, int stride, float sign) -> Tensor", _turn, like)
differentiate("rotary", _differentiate, _save)
