"""What the operators share: the tensors they take, views of them for C++, their place in torch."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_library: Any = torch.library.Library("espalier", "FRAGMENT")  # type: ignore[no-untyped-call]


class View(ctypes.Structure):
    """Where (batch, time, heads, width) lies, its last dimension contiguous: `View` of view.h."""

    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_long * 3))

    @classmethod
    def of(cls, x: Tensor) -> "View":
        return cls(x.data_ptr(), (ctypes.c_long * 3)(*x.stride()[:3]))


def fits(x: Tensor) -> bool:
    """Is it on a CPU, in fp32 or bf16?"""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def lined(x: Tensor) -> Tensor:
    """The same with a contiguous last dimension."""
    return x if x.stride(-1) == 1 else x.contiguous()


def like(x: Tensor, *_: Any) -> Tensor:
    """An empty contiguous tensor of its shape and dtype."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def define(
    schema: str, made: Callable[..., Any], meta: Callable[..., Any], where: str = "CPU"
) -> None:
    """Make `NAME(...) -> ...` an operator of torch: `made` where it is dispatched.

    `meta` has the same arguments and gives empty tensors like the results.
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, made, where)
    _library.impl(name, meta, "Meta")


def differentiate(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Give a defined operator its gradient."""
    torch.library.register_autograd(f"espalier::{name}", backward, setup_context=save, lib=_library)
