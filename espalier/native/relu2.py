"""Squared relu on a CPU as an operator of torch, from `relu2.cpp`."""

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
    ready = library("relu2") is not None
    return ready


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return ready and x.device.type == "cpu" and x.dtype in _DTYPES


def square(x: Tensor) -> Tensor:
    """max(x, 0)^2 of any shape."""
    out: Tensor = torch.ops.espalier.relu2(x)
    return out


def _forward(x: Tensor) -> Tensor:
    return _call("relu2_forward", x.contiguous())


def _backward(grad: Tensor, x: Tensor) -> Tensor:
    return _call("relu2_backward", grad.to(x.dtype).contiguous(), x.contiguous())


def _call(name: str, *given: Tensor) -> Tensor:
    first = given[0]
    out = torch.empty_like(first)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*given, out)]
    kernel = library("relu2")
    assert kernel is not None
    size = ctypes.c_long(first.numel())
    getattr(kernel, name)(size, first.dtype == torch.bfloat16, torch.get_num_threads(), *pointers)
    return out


def _meta(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _meta_backward(grad: Tensor, x: Tensor) -> Tensor:
    return _meta(x)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> Tensor:
    made: Tensor = torch.ops.espalier.relu2_backward(grad, *ctx.saved_tensors)
    return made


_library: Any = torch.library.Library("espalier", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("relu2(Tensor x) -> Tensor")
_library.define("relu2_backward(Tensor grad, Tensor x) -> Tensor")
_library.impl("relu2", _forward, "CPU")
_library.impl("relu2_backward", _backward, "CPU")
_library.impl("relu2", _meta, "Meta")
_library.impl("relu2_backward", _meta_backward, "Meta")
torch.library.register_autograd(
    "espalier::relu2", _differentiate, setup_context=_save, lib=_library
)
