"""Squared relu on a CPU as an operator of torch, from `relu2.cpp`."""

from ctypes import c_int, c_long, c_void_p
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import define, differentiate, fits, like

ready = False  # until build.prepare


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return ready and fits(x)


def square(x: Tensor) -> Tensor:
    """max(x, 0)^2 of any shape."""
    out: Tensor = torch.ops.espalier.relu2(x)
    return out


def _forward(x: Tensor) -> Tensor:
    return _call("relu2_forward", x.contiguous())


def _backward(grad: Tensor, x: Tensor) -> Tensor:
    return _call("relu2_backward", grad.to(x.dtype).contiguous(), x.contiguous())


def _call(name: str, *given: Tensor) -> Tensor:
    out = like(given[0])
    pointers = [t.data_ptr() for t in (*given, out)]
    kernel = function("relu2", name, c_long, c_int, c_int, *[c_void_p] * len(pointers))
    kernel(out.numel(), out.dtype == torch.bfloat16, torch.get_num_threads(), *pointers)
    return out


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> Tensor:
    made: Tensor = torch.ops.espalier.relu2_backward(grad, *ctx.saved_tensors)
    return made


define("relu2(Tensor x) -> Tensor", _forward, like)
define("relu2_backward(Tensor grad, Tensor x) -> Tensor", _backward, lambda _, x: like(x))
differentiate("relu2", _differentiate, _save)
