"""Dropout on a CPU as an operator of torch, from `dropout.cpp`."""

from ctypes import c_float, c_int, c_long, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import define, differentiate, fits, like

# numbers, p, seed, bf16, threads, x, out
_ARGUMENTS = (c_long, c_float, c_uint64, c_int, c_int, c_void_p, c_void_p)

ready = False  # until build.prepare


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such an input?"""
    return ready and fits(x)


def drop(x: Tensor, p: float) -> Tensor:
    """x / (1 - p) with each number zeroed with probability p; the seed is torch's generator's."""
    out: Tensor = torch.ops.espalier.dropout(x, p, torch.randint(2**62, (1,)))
    return out


def _drop(x: Tensor, p: float, seed: Tensor) -> Tensor:
    x = x.contiguous()
    out, bf16 = like(x), x.dtype == torch.bfloat16
    kernel = function("dropout", "dropout", *_ARGUMENTS)
    kernel(x.numel(), p, int(seed), bf16, torch.get_num_threads(), x.data_ptr(), out.data_ptr())
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.p, seed = inputs
    ctx.save_for_backward(seed)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.espalier.dropout(grad, ctx.p, *ctx.saved_tensors), None, None


define("dropout(Tensor x, float p, Tensor seed) -> Tensor", _drop, like)
differentiate("dropout", _differentiate, _save)
