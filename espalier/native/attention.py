"""Causal attention for training on a CPU as an operator of torch, from `attention.cpp`."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import View, define, differentiate, fits, like, lined


class _Shape(ctypes.Structure):
    _fields_ = (
        ("sizes", ctypes.c_long * 6),
        ("seed", ctypes.c_uint64),
        ("scale", ctypes.c_float),
        ("dropout", ctypes.c_float),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


ready = False  # until build.prepare


def serves(q: Tensor) -> bool:
    """Is the kernel there, and made for such queries?"""
    return ready and fits(q)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, dropout: float = 0.0
) -> Tensor:
    """Causal attention of (batch, time, heads, width) queries on keys and values of the same time.

    Key/value heads may be fewer than query heads and divide them; a query sees the last `window`
    tokens, itself included. fp32 or bf16, arithmetic in fp32. Dropout of weights draws
    its seed from torch's generator.
    """
    seed = torch.randint(2**62, (1,)) if dropout else None
    span = window or q.shape[1]
    out: Tensor = torch.ops.espalier.attention(q, k, v, scale, span, dropout, seed)[0]
    return out


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    q, k, v = (lined(t) for t in (q, k, v))
    out = like(q)
    lse = torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)
    shape = _shape(q, k, scale, window, dropout, seed)
    _call("attention_forward", shape, q, k, v, out, lse)
    return out, lse


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    window: int,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, grad = (lined(t) for t in (q, k, v, grad.to(q.dtype)))
    given = [like(t) for t in (q, k, v)]
    shape = _shape(q, k, scale, window, dropout, seed)
    _call("attention_backward", shape, q, k, v, out, lse, grad, *given)
    return given[0], given[1], given[2]


def _shape(
    q: Tensor, k: Tensor, scale: float, window: int, dropout: float, seed: Tensor | None
) -> _Shape:
    b, t, heads, width = q.shape
    sizes = (ctypes.c_long * 6)(b, t, heads, k.shape[2], width, min(window, t))
    drawn = 0 if seed is None else int(seed)
    bf16 = q.dtype == torch.bfloat16
    return _Shape(sizes, drawn, scale, dropout, bf16, torch.get_num_threads())


def _call(name: str, shape: _Shape, *tensors: Tensor) -> None:
    """The log-sum-exp (three dimensions) goes as a pointer, the others as strided views."""
    kernel = function("attention", name, *[ctypes.c_void_p] * (1 + len(tensors)))
    given = [t.data_ptr() if t.ndim == 3 else ctypes.byref(View.of(t)) for t in tensors]
    if kernel(ctypes.byref(shape), *given) != 0:
        raise MemoryError("attention: no memory for its scratch space")


def _meta(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


def _meta_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return like(q), like(k), like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.numbers, seed = inputs  # scale, window, dropout
    ctx.save_for_backward(q, k, v, *output, seed)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    made = torch.ops.espalier.attention_backward(grad, *tensors, *ctx.numbers, seed)
    return *made, None, None, None, None


define(
    "attention(Tensor q, Tensor k, Tensor v, float scale, int window, float dropout, Tensor? seed)"
    " -> (Tensor, Tensor)",
    _forward,
    _meta,
)
define(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "float scale, int window, float dropout, Tensor? seed) -> (Tensor, Tensor, Tensor)",
    _backward,
    _meta_backward,
)
differentiate("attention", _differentiate, _save)


def count_flops() -> None:
    """Teach torch's FLOP counter this operator: the full square, as it counts its own attention."""
    from torch.utils.flop_counter import register_flop_formula

    def forward(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        b, t, heads, width = q
        return int(4 * b * heads * t * t * width)

    def backward(grad: Any, *shapes: Any, **__: Any) -> int:
        return 2 * forward(*shapes[:3])

    register_flop_formula(torch.ops.espalier.attention)(forward)
    register_flop_formula(torch.ops.espalier.attention_backward)(backward)
