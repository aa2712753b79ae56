"""Linear layers over small weights for generation, as an operator of torch, from `matvec.cpp`.

Weights are fp32, bf16, or int8 with a scale for each output; x and y are fp32 on a CPU. For
generation alone: there is no gradient.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.native.build import function
from espalier.native.operators import define

MULTIPLE = 64  # rows of weights are padded with zeros to it
WIDEST = 2**16  # inputs of an int8 product whose 32-bit sums cannot overflow


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("sizes", ctypes.c_long * 4),
    )


@dataclass(frozen=True)
class Packed:
    """A matrix (n_out, n_in) made small. int8: weights * scale, with each row's sum beside it."""

    weights: Tensor  # (n_out, n_in rounded up)
    n_in: int
    scale: Tensor | None = None  # (n_out) fp32
    sums: Tensor | None = None  # (n_out) int32
    bias: Tensor | None = None  # (n_out) fp32

    def rows(self, ids: Tensor) -> Tensor:
        """The given rows of the matrix in fp32: a look-up in an embedding table."""
        found = F.embedding(ids, self.weights)[..., : self.n_in].float()
        return found if self.scale is None else found * self.scale[ids][..., None]

    def nbytes(self) -> int:
        """What a product reads."""
        parts = (self.weights, self.scale, self.sums, self.bias)
        return sum(part.nbytes for part in parts if part is not None)


ready = False  # until build.prepare


def pack(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Packed:
    """Weights as fp32, bf16 (rounded to nearest) or int8 (symmetric, a scale for each output).

    fp32 weights of fitting width are shared, not copied.
    """
    weight, n_in = weight.detach().float(), weight.shape[1]
    bias = None if bias is None else bias.detach().float()
    scale = sums = None
    if dtype == torch.int8:
        if n_in > WIDEST:
            raise ValueError(f"int8 weights: {n_in} inputs, more than {WIDEST}")
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        weight = (weight / scale[:, None]).round()
        sums = weight.sum(1).to(torch.int32)
    small = F.pad(weight.to(dtype), (0, -n_in % MULTIPLE)) if n_in % MULTIPLE else weight.to(dtype)
    return Packed(small.contiguous(), n_in, scale, sums, bias)


class Linear:
    """x W^T + b for x (..., n_in), with all that does not depend on x settled beforehand.

    Where the kernel serves it is called directly, which costs microseconds; compilers, exports and
    other devices go through the operator `espalier::matvec`, which is the same.
    """

    def __init__(self, packed: Packed):
        self.packed = packed
        optional = (packed.scale, packed.sums, packed.bias)
        n_out, stride = packed.weights.shape
        self._matrix = _Matrix(
            packed.weights.data_ptr(),
            *(None if part is None else part.data_ptr() for part in optional),
            (n_out, packed.n_in, stride, packed.weights.element_size()),
        )
        self._at, self._n_out = ctypes.addressof(self._matrix), n_out

    def __call__(self, x: Tensor) -> Tensor:
        packed = self.packed
        if torch.compiler.is_compiling() or type(x) is not Tensor or not serves(x):
            made: Tensor = torch.ops.espalier.matvec(
                x, packed.weights, packed.scale, packed.sums, packed.bias
            )
            return made
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], self._n_out)
        rows = x.numel() // packed.n_in
        if _kernel()(self._at, x.data_ptr(), y.data_ptr(), rows, torch.get_num_threads()) != 0:
            raise MemoryError("matvec: no memory for its scratch space")
        return y


@functools.cache
def _kernel() -> Callable[[int, int, int, int, int], int]:
    return function("matvec", "matvec", *[ctypes.c_void_p] * 3, *[ctypes.c_long] * 2)


def serves(x: Tensor) -> bool:
    """Is the kernel there, and made for such inputs?"""
    return ready and x.device.type == "cpu" and x.dtype == torch.float32


def reference(x: Tensor, packed: Packed) -> Tensor:
    """The same by torch: low-precision products on a GPU, products in x's precision elsewhere."""
    low = packed.weights.dtype != torch.float32 and x.device.type == "cuda"
    dtype = torch.bfloat16 if low else x.dtype
    y = F.linear(x.to(dtype), packed.weights[:, : packed.n_in].to(dtype)).to(x.dtype)
    if packed.scale is not None:
        y = y * packed.scale
    return y if packed.bias is None else y + packed.bias


def _product(
    x: Tensor, weights: Tensor, scale: Tensor | None, sums: Tensor | None, bias: Tensor | None
) -> Tensor:
    packed = Packed(weights, x.shape[-1], scale, sums, bias)
    if torch.compiler.is_compiling() or not serves(x):
        return reference(x, packed)
    return Linear(packed)(x)


def _meta(
    x: Tensor, weights: Tensor, scale: Tensor | None, sums: Tensor | None, bias: Tensor | None
) -> Tensor:
    return x.new_empty(*x.shape[:-1], weights.shape[0])


define(
    "matvec(Tensor x, Tensor weights, Tensor? scale, Tensor? sums, Tensor? bias) -> Tensor",
    _product,
    _meta,
    "CompositeExplicitAutograd",
)
