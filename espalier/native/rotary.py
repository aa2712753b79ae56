"""Rotary positions on a CPU as an operator of torch, from `rotary.cpp`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import library

_DTYPES = (torch.float32, torch.bfloat16)


class _View(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_long * 3))


class _Shape(ctypes.Structure):
    _fields_ = (
        ("sizes", ctypes.c_long * 6),
        ("sign", ctypes.c_float),
        ("bf16", ctypes.c_int),
        ("interleaved", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


ready = False  # a plain global, so that compiled code guards on it instead of tracing a build


def prepare() -> bool:
    """Build or load the kernel; from then on `serves` may say yes. False where it cannot be had."""
    global ready
    ready = library("rotary") is not None
    return ready


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such queries or keys?"""
    return ready and x.device.type == "cpu" and x.dtype in _DTYPES and x.ndim == 4


def turn(x: Tensor, cos: Tensor, sin: Tensor, stride: int) -> Tensor:
    """Turn the first features of (batch, time, heads, width) by fp32 tables.

    Tables are (batch or 1, time, 1, turned / 2); pairs are the two halves of what is turned
    (stride 1), or neighbours (stride 2).
    """
    out: Tensor = torch.ops.espalier.rotary(x, cos, sin, stride, 1.0)
    return out


def _turn(x: Tensor, cos: Tensor, sin: Tensor, stride: int, sign: float) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    cos, sin = _table(cos), _table(sin)
    b, t, heads, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype)
    sizes = (ctypes.c_long * 6)(b, t, heads, width, 2 * cos.shape[-1], cos.shape[0])
    threads = torch.get_num_threads()
    shape = _Shape(sizes, sign, x.dtype == torch.bfloat16, stride == 2, threads)
    view = _View(x.data_ptr(), (ctypes.c_long * 3)(*x.stride()[:3]))
    kernel = library("rotary")
    assert kernel is not None
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (cos, sin, out)]
    kernel.rotary(ctypes.byref(shape), ctypes.byref(view), *pointers)
    return out


def _table(table: Tensor) -> Tensor:
    """Rows that are all one (positions expanded over the batch) are read once."""
    return (table[:1] if table.stride(0) == 0 else table).contiguous()


def _meta(x: Tensor, cos: Tensor, sin: Tensor, stride: int, sign: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.stride, ctx.sign = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    back = torch.ops.espalier.rotary(grad, *ctx.saved_tensors, ctx.stride, -ctx.sign)
    return back, None, None, None, None


_library: Any = torch.library.Library("espalier", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("rotary(Tensor x, Tensor cos, Tensor sin, int stride, float sign) -> Tensor")
_library.impl("rotary", _turn, "CPU")
_library.impl("rotary", _meta, "Meta")
torch.library.register_autograd(
    "espalier::rotary", _differentiate, setup_context=_save, lib=_library
)
