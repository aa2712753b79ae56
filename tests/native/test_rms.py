"""The native RMS norm against its formula in float64, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.native import build, rms

pytestmark = pytest.mark.skipif(not build.prepare(rms), reason=f"no kernel: {build.why_not()}")


def reference(x: Tensor, gain: Tensor | None) -> Tensor:
    x = x.double()
    y = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return y if gain is None else y * gain.double()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=0, max_size=3), st.integers(1, 70), st.booleans())
def test_any_shape_equals_the_formula(front: list[int], width: int, with_gain: bool) -> None:
    draw = torch.Generator().manual_seed(width)
    x = torch.randn(*front, width, generator=draw).requires_grad_()
    gain = torch.randn(width, generator=draw).requires_grad_() if with_gain else None
    leaves = [x] if gain is None else [x, gain]
    weight = torch.randn(*front, width, generator=draw)
    got, want = rms.normalise(x, gain, 1e-5), reference(x, gain)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad((got * weight).sum(), leaves)
    theirs = torch.autograd.grad((want * weight).sum(), leaves)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_heads_of_a_fused_projection_need_no_copy() -> None:
    fused = torch.randn(2, 5, 6, 16)
    q = fused.split(2, 2)[1]
    assert not q.is_contiguous()
    got = rms.normalise(q, None, 1e-5).double()
    torch.testing.assert_close(got, reference(q, None), atol=1e-5, rtol=1e-5)


def test_bfloat16_is_as_close_as_its_own_rounding() -> None:
    x = torch.randn(9, 64).bfloat16()
    got, want = rms.normalise(x, None, 1e-5).double(), reference(x, None)
    assert (got - want).norm() < 0.003 * want.norm()


def test_it_is_a_lawful_operator() -> None:
    x, gain = torch.randn(2, 3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.espalier.rms_norm.default, (x, gain, 1e-5), test_utils=checks)
