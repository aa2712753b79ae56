"""Attention on a cache by the native kernel, against the formula on the cache torch wrote."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.native import build, cached
from espalier.nn.state import KV

pytestmark = pytest.mark.skipif(not build.prepare(cached), reason=f"no kernel: {build.why_not()}")


def reference(q: Tensor, cache: KV, positions: Tensor, window: int | None) -> Tensor:
    """In float64, query by query."""
    group = q.shape[2] // cache.keys.shape[2]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for b, t in torch.cartesian_prod(torch.arange(q.shape[0]), torch.arange(q.shape[1])).tolist():
        gap = positions[b, t] - (cache.seen[b] - 1)
        sees = (cache.seen[b] > 0) & (gap >= 0) & (gap < (window or 10**6))
        if positions[b, t] < 0:
            continue
        for h in range(q.shape[2]):
            keys = cache.keys[b, sees, h // group].double()
            values = cache.values[b, sees, h // group].double()
            scores = keys @ q[b, t, h].double() / math.sqrt(q.shape[3])
            out[b, t, h] = scores.softmax(0) @ values
    return out


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from([1, 8, 16, 24, 64]),
    st.none() | st.integers(1, 9),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_steps_and_chunks_equal_the_formula(
    batch: int, kv: int, group: int, width: int, window: int | None, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(batch + width)
    length = 20
    mine, torchs = (
        KV.empty(*torch.zeros(2, batch, 1, kv, width, dtype=dtype), length, window)
        for _ in range(2)
    )
    at = torch.tensor([0, 5, -1])[:batch, None]  # rows stand at their own places, one idles
    for _ in range(12):
        fused = torch.randn(batch, 1, kv * (group + 2), width, generator=draw)
        q, k, v = fused.split([kv * group, kv, kv], 2)
        out = cached.attend((q, k, v), (mine.keys, mine.values, mine.seen), at, width**-0.5, window)
        torchs.extend(k, v, at)
        for got, want in zip(mine.tensors(), torchs.tensors(), strict=True):
            assert torch.equal(got[:, :-1], want[:, :-1])
        want = reference(q, torchs, at, window)
        torch.testing.assert_close(out.double(), want, atol=2e-5, rtol=1e-4)
        at = torch.where(at >= 0, at + 1, at)


def test_several_new_tokens_see_the_past_and_one_another() -> None:
    mine, torchs = (KV.empty(*torch.zeros(2, 2, 1, 2, 16), 32, None) for _ in range(2))
    for start, count in ((0, 7), (7, 1), (8, 5)):
        q, k, v = torch.randn(2, count, 8, 16).split([4, 2, 2], 2)
        at = (start + torch.arange(count)).repeat(2, 1)
        at[1, count - 1 :] = -1 if count > 1 else start  # padding on the right
        out = cached.attend((q, k, v), (mine.keys, mine.values, mine.seen), at, 0.25, None)
        torchs.extend(k, v, at)
        torch.testing.assert_close(
            out.double(), reference(q, torchs, at, None), atol=2e-5, rtol=1e-4
        )


def test_a_row_is_the_same_to_the_last_bit_whatever_stands_beside_it() -> None:
    q, k, v = torch.randn(5, 1, 6, 32).split([2, 2, 2], 2)
    at = torch.arange(5)[:, None]

    def attend(rows: slice) -> Tensor:
        cache = KV.empty(k[rows], v[rows], 8, None)
        given = tuple(x[rows] for x in (q, k, v))
        return cached.attend(given, (cache.keys, cache.values, cache.seen), at[rows], 0.2, None)

    assert torch.equal(attend(slice(5)), torch.cat([attend(slice(i, i + 1)) for i in range(5)]))


def test_it_is_a_lawful_operator() -> None:
    q, k, v = torch.randn(2, 1, 6, 16).split([2, 2, 2], 2)
    cache = KV.empty(k, v, 8, None)
    given = (q, k, v, cache.keys, cache.values, cache.seen, torch.zeros(2, 1).long(), 0.25, 9)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.espalier.cached_attention.default, given, test_utils=checks)
