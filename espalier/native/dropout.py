"""Dropout on a CPU as an operator of torch, from `dropout.cpp`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import library

_DTYPES = (torch.float32, torch.bfloat16)

ready = False  # a plain global, so that compiled code guards on it instead of tracing a build


def prepare() -> bool:
    """Build or load the kernel; from then on `serves` may say yes. False where it cannot be had."""
    global ready
    ready = library("dropout") is not None
    return ready


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return ready and x.device.type == "cpu" and x.dtype in _DTYPES


def drop(x: Tensor, p: float) -> Tensor:
    """x / (1 - p) with each number zeroed with probability p; the seed is torch's generator's."""
    out: Tensor = torch.ops.espalier.dropout(x, p, torch.randint(2**62, (1,)))
    return out


def _drop(x: Tensor, p: float, seed: Tensor) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    kernel = library("dropout")
    assert kernel is not None
    kernel.dropout(
        ctypes.c_long(x.numel()),
        ctypes.c_float(p),
        ctypes.c_uint64(int(seed)),
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
    )
    return out


def _meta(x: Tensor, p: float, seed: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.p, seed = inputs
    ctx.save_for_backward(seed)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.espalier.dropout(grad, ctx.p, *ctx.saved_tensors), None, None


_library: Any = torch.library.Library("espalier", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("dropout(Tensor x, float p, Tensor seed) -> Tensor")
_library.impl("dropout", _drop, "CPU")
_library.impl("dropout", _meta, "Meta")
torch.library.register_autograd(
    "espalier::dropout", _differentiate, setup_context=_save, lib=_library
)
