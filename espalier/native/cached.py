"""Attention of new tokens on a cache of keys and values, an operator of torch from `cached.cpp`.

For generation alone: there is no gradient.
"""

import ctypes
import functools
from array import array
from collections.abc import Callable

import torch
from torch import Tensor

from espalier.native.build import function
from espalier.native.operators import define, fits, like

ready = False  # until build.prepare


def serves(q: Tensor, keys: Tensor) -> bool:
    """Is the kernel there, and made for such queries (fp32) and such a cache (fp32 or bf16)?"""
    return ready and q.dtype == torch.float32 and fits(q) and fits(keys)


def attend(
    qkv: tuple[Tensor, Tensor, Tensor],
    cache: tuple[Tensor, Tensor, Tensor],
    positions: Tensor,
    scale: float,
    window: int | None,
) -> Tensor:
    """Write new keys and values (batch, time, kv_heads, width) to the cache and attend to it.

    `cache` is keys and values (batch, slots + 1, kv_heads, width) and `seen` (batch, slots + 1), as
    in `KV`, changed in place; with more than one new token it may not wrap. A query (batch, time,
    heads, width) sees positions at or before its own, the last `window` of them; the output of a
    position below 0 is 0.
    """
    window = window or cache[2].shape[1]
    if torch.compiler.is_compiling() or type(qkv[0]) is not Tensor:
        made: Tensor = torch.ops.espalier.cached_attention(*qkv, *cache, positions, scale, window)
        return made
    return _attend(*qkv, *cache, positions, scale, window)  # the operator, without its overhead


@functools.cache
def _kernel() -> Callable[[int, float], int]:
    return function("cached", "cached_attention", ctypes.c_void_p, ctypes.c_float)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    positions: Tensor,
    scale: float,
    window: int,
) -> Tensor:
    b, t, heads, width = q.shape
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    positions, out = positions.contiguous(), torch.empty(b, t, heads, width)
    assert keys.is_contiguous()
    assert values.is_contiguous()
    numbers = [number for x in (q, k, v) for number in (x.data_ptr(), *x.stride()[:3])]
    numbers += [x.data_ptr() for x in (keys, values, seen, positions, out)]
    numbers += [b, t, heads, k.shape[2], width, seen.shape[1] - 1, window]
    numbers += [keys.dtype is torch.bfloat16, torch.get_num_threads()]
    call = array("q", numbers)
    if _kernel()(call.buffer_info()[0], scale) != 0:
        raise MemoryError("cached attention: no memory for its scratch space")
    return out


define(
    "cached_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) keys, Tensor(b!) values, "
    "Tensor(c!) seen, Tensor positions, float scale, int window) -> Tensor",
    _attend,
    like,
)
