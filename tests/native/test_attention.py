"""The native attention kernel against torch's own, in values, gradients and as an operator."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.native import attention, build

pytestmark = pytest.mark.skipif(
    not build.prepare(attention), reason=f"no kernel: {build.why_not()}"
)


def reference(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """In float64, from the formula."""
    q, k, v = (t.double().transpose(1, 2) for t in (q, k, v))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    time = torch.arange(q.shape[2])
    gap = time[:, None] - time
    hidden = (gap < 0) | (gap >= (window or len(time)))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(hidden, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def both(
    sizes: tuple[int, int, int, int, int], window: int | None, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(output, gradient of the fused projection) of the kernel and of the reference."""
    b, t, kv, group, width = sizes
    draw = torch.Generator().manual_seed(b + t + width)
    fused = torch.randn(b, t, kv * (group + 2), width, generator=draw).to(dtype).requires_grad_()
    weight = torch.randn(b, t, kv * group, width, generator=draw)
    found = []
    for call in (
        lambda q, k, v: attention.attend(q, k, v, width**-0.5, window),
        lambda q, k, v: reference(q, k, v, window),
    ):
        out = call(*fused.split([kv * group, kv, kv], 2))
        (grad,) = torch.autograd.grad((out * weight).sum(), fused)
        found.append((out.double(), grad.double()))
    return found[0], found[1]


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 90),
        st.integers(1, 2),
        st.integers(1, 3),
        st.sampled_from([1, 8, 24, 32, 40, 64]),
    ),
    st.none() | st.integers(1, 100),
)
def test_any_shape_equals_the_formula(
    sizes: tuple[int, int, int, int, int], window: int | None
) -> None:
    (out, grad), (want_out, want_grad) = both(sizes, window, torch.float32)
    torch.testing.assert_close(out, want_out, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(grad, want_grad, atol=1e-4, rtol=1e-3)


def test_bfloat16_is_as_close_as_its_own_rounding() -> None:
    (out, grad), (want_out, want_grad) = both((2, 100, 2, 2, 64), None, torch.bfloat16)
    assert (out - want_out).norm() < 0.004 * want_out.norm()
    assert (grad - want_grad).norm() < 0.008 * want_grad.norm()


def test_large_scores_neither_overflow_nor_vanish() -> None:
    q = torch.full((1, 40, 1, 32), 30.0)
    out = attention.attend(q, q, torch.ones_like(q), 1.0, None)
    torch.testing.assert_close(out, torch.ones_like(q))


def test_one_thread_and_two_give_the_same_bits() -> None:
    q = torch.randn(3, 65, 2, 32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(attention.attend(q, q, q, 0.2, None))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_views_of_one_projection_need_no_copy_and_give_the_same() -> None:
    fused = torch.randn(2, 33, 6, 16)
    q, k, v = fused.split(2, 2)
    assert not q.is_contiguous()
    got = attention.attend(q, k, v, 0.25, None)
    assert torch.equal(got, attention.attend(*(t.contiguous() for t in (q, k, v)), 0.25, None))


def test_it_is_a_lawful_operator() -> None:
    q = torch.randn(1, 20, 2, 16, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (q, q, q, 0.2, 20, 0.1, torch.tensor([7]))
    torch.library.opcheck(torch.ops.espalier.attention.default, arguments, test_utils=checks)


def test_without_a_compiler_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_NATIVE", "0")
    build.why_not.cache_clear()
    build.library.cache_clear()
    try:
        assert not build.prepare(attention)
        assert not attention.serves(torch.zeros(1, 1, 1, 1))
    finally:
        monkeypatch.undo()
        build.why_not.cache_clear()
        build.library.cache_clear()
        build.prepare(attention)


def test_a_kernel_is_built_once_and_a_broken_build_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path))
    build.library.cache_clear()
    assert build.library("attention") is not None
    (made,) = tmp_path.iterdir()
    stamp = made.stat().st_mtime_ns
    build.library.cache_clear()
    assert build.library("attention") is not None
    assert made.stat().st_mtime_ns == stamp
    monkeypatch.setattr(build, "FLAGS", ("--no-such-flag",))
    build.library.cache_clear()
    assert build.library("attention") is None
    build.library.cache_clear()


def test_a_changed_header_makes_another_kernel(tmp_path: Path) -> None:
    source, header = tmp_path / "sum.cpp", tmp_path / "vectors.h"
    source.write_text('#include "vectors.h"')
    header.write_text("constexpr int WIDE = 8;")
    before = build._key(source)
    header.write_text("constexpr int WIDE = 16;")
    assert build._key(source) != before


def test_flops_are_counted_as_torch_counts_its_own() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    attention.count_flops()

    def count(call: object) -> int:
        with FlopCounterMode(display=False) as counter:
            q, k, v = (torch.randn(2, 32, 4, 16, requires_grad=True) for _ in range(3))
            call(q, k, v).sum().backward()
        return counter.get_total_flops()

    native = count(lambda q, k, v: attention.attend(q, k, v, 0.25, None))
    full_square = count(
        lambda q, k, v: torch.einsum("bths,bshd->bthd", torch.einsum("bthd,bshd->bths", q, k), v)
    )
    assert native == full_square


def test_dropout_drops_the_same_weights_forward_and_backward() -> None:
    b, t, heads, drop = 2, 32, 3, 0.25
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(b, t, heads, t, generator=draw).requires_grad_() for _ in "qkv")
    see = torch.eye(t)[None, :, None].expand(b, t, heads, t)  # values that show the weights

    def kernel(values: Tensor) -> Tensor:
        torch.manual_seed(5)
        return attention.attend(q, k, values, t**-0.5, None, drop)

    kept = kernel(see).detach().double().transpose(1, 2) != 0
    seen = torch.ones(t, t).tril().bool()
    assert abs(kept[..., seen].double().mean() - (1 - drop)) < 0.03
    assert not torch.equal(kept[0, 0], kept[0, 1])
    assert not torch.equal(kept[0], kept[1])

    scores = (q.double().transpose(1, 2) @ k.double().permute(0, 2, 3, 1)) * t**-0.5
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1) * kept / (1 - drop)
    want = (weights @ v.double().transpose(1, 2)).transpose(1, 2)
    got, weight = kernel(v), torch.randn(b, t, heads, t, generator=draw)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-4)
    mine = torch.autograd.grad((got * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((want * weight).sum(), (q, k, v))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
