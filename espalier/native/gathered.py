"""Products with vectors that are mostly zero, from `gathered.cpp`: zeros cost no bytes of weights.

For generation alone, on a CPU: there is no gradient, and elsewhere torch multiplies by the zeros.
"""

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from espalier.native.build import function

MULTIPLE = 32  # outputs; a matrix of other width is torch's business
FEW = 8  # rows up to which each reads its own features; more share a dense product


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("sizes", ctypes.c_long * 3),
    )


ready = False  # until build.prepare


class Product:
    """x W + b for W (n_in, n_out) in fp32 or bf16 and x (..., n_in) in fp32."""

    def __init__(self, weights: Tensor, bias: Tensor | None):
        self.weights, self.bias = weights.contiguous(), bias
        self._matrix = _Matrix(
            self.weights.data_ptr(),
            None if bias is None else bias.data_ptr(),
            (*weights.shape, weights.element_size()),
        )

    def __call__(self, x: Tensor) -> Tensor:
        n_in, n_out = self.weights.shape
        rows = x.numel() // n_in
        if torch.compiler.is_compiling() or not (0 < rows <= FEW and self._serves(x)):
            y = x @ self.weights.to(x.dtype)
            return y if self.bias is None else y + self.bias
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], n_out)
        at = ctypes.addressof(self._matrix)
        if _kernel()(at, x.data_ptr(), y.data_ptr(), rows, torch.get_num_threads()) != 0:
            raise MemoryError("gathered: no memory for its scratch space")
        return y

    def _serves(self, x: Tensor) -> bool:
        fits = self.weights.shape[1] % MULTIPLE == 0 and x.dtype == torch.float32
        return ready and fits and x.device.type == self.weights.device.type == "cpu"


@functools.cache
def _kernel() -> Callable[[int, int, int, int, int], int]:
    return function("gathered", "gathered", *[ctypes.c_void_p] * 3, *[ctypes.c_long] * 2)
