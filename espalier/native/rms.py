"""Root-mean-square normalisation on a CPU as an operator of torch, from `rms.cpp`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import library

_DTYPES = (torch.float32, torch.bfloat16)


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


ready = False  # a plain global, so that compiled code guards on it instead of tracing a build


def prepare() -> bool:
    """Build or load the kernel; from then on `serves` may say yes. False where it cannot be had."""
    global ready
    ready = library("rms") is not None
    return ready


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return ready and x.device.type == "cpu" and x.dtype in _DTYPES


def normalise(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps), times an fp32 gain (width), over the last dimension."""
    out: Tensor = torch.ops.espalier.rms_norm(x, gain, eps)[0]
    return out


def _forward(x: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    x = _regular(x)
    out = torch.empty(x.shape, dtype=x.dtype)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32)
    kernel = library("rms")
    assert kernel is not None
    kernel.rms_forward(
        ctypes.byref(_shape(x, eps)), _rows(x), _pointer(gain), _pointer(out), _pointer(scale)
    )
    return out, scale


def _backward(grad: Tensor, x: Tensor, gain: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
    x, grad = _regular(x), _regular(grad.to(x.dtype))
    dx = torch.empty(x.shape, dtype=x.dtype)
    shape = _shape(x, 0.0)
    sums = torch.zeros(shape.threads if gain is not None else 0, x.shape[-1])
    kernel = library("rms")
    assert kernel is not None
    given = (grad, x)
    tensors = (gain, scale, dx, sums if gain is not None else None)
    kernel.rms_backward(
        ctypes.byref(shape), *(_rows(t) for t in given), *(_pointer(t) for t in tensors)
    )
    return dx, sums.sum(0)


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


def _rows(x: Tensor) -> Any:
    outer = x.stride(-3) if x.ndim > 2 else 0
    inner = x.stride(-2) if x.ndim > 1 else 0
    return ctypes.byref(_Rows(x.data_ptr(), outer, inner))


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _meta(x: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, x.new_empty(x.shape[:-1], dtype=torch.float32)


def _meta_backward(
    grad: Tensor, x: Tensor, gain: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor]:
    return _meta(x, gain, 0.0)[0], x.new_empty(x.shape[-1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gain, _ = inputs
    ctx.save_for_backward(x, gain, output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, gain, scale = ctx.saved_tensors
    dx, dgain = torch.ops.espalier.rms_norm_backward(grad, x, gain, scale)
    return dx, None if gain is None else dgain, None


_library: Any = torch.library.Library("espalier", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("rms_norm(Tensor x, Tensor? gain, float eps) -> (Tensor, Tensor)")
_library.define(
    "rms_norm_backward(Tensor grad, Tensor x, Tensor? gain, Tensor scale) -> (Tensor, Tensor)"
)
_library.impl("rms_norm", _forward, "CPU")
_library.impl("rms_norm_backward", _backward, "CPU")
_library.impl("rms_norm", _meta, "Meta")
_library.impl("rms_norm_backward", _meta_backward, "Meta")
torch.library.register_autograd(
    "espalier::rms_norm", _differentiate, setup_context=_save, lib=_library
)
