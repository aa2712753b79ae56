"""The native rotary turn against its formula in float64, in values and gradients."""

import pytest
import torch
from torch import Tensor

from espalier.native import build, rotary

pytestmark = pytest.mark.skipif(not build.prepare(rotary), reason=f"no kernel: {build.why_not()}")


def tables(rows: int, time: int, half: int) -> tuple[Tensor, Tensor]:
    angles = torch.randn(rows, time, 1, half, generator=torch.Generator().manual_seed(half))
    return angles.cos(), angles.sin()


def reference(x: Tensor, cos: Tensor, sin: Tensor, stride: int) -> Tensor:
    """Each pair as a complex number times e^(i angle)."""
    x, half = x.double(), cos.shape[-1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    pairs = turned.unflatten(-1, (half, 2) if stride == 2 else (2, half))
    a, b = pairs.unbind(-1 if stride == 2 else -2)
    z = torch.complex(a, b) * torch.complex(cos.double(), sin.double())
    back = torch.stack([z.real, z.imag], -1 if stride == 2 else -2).flatten(-2)
    return torch.cat([back, rest], -1)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("width", "turned"), [(8, 8), (20, 6), (64, 64)])
def test_a_turn_equals_the_formula(width: int, turned: int, stride: int, rows: int) -> None:
    draw = torch.Generator().manual_seed(width)
    fused = torch.randn(3, 7, 5, width, generator=draw).requires_grad_()
    x, (cos, sin) = fused[:, :, 1:4], tables(rows, 7, turned // 2)  # heads of a fused projection
    weight = torch.randn(3, 7, 3, width, generator=draw)
    got, want = rotary.turn(x, cos, sin, stride), reference(x, cos, sin, stride)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-5)
    (mine,) = torch.autograd.grad((got * weight).sum(), fused)
    (theirs,) = torch.autograd.grad((want * weight).sum(), fused)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_quarter_turn_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    cos, sin = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    assert rotary.turn(x, cos, sin, 1).flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]
    assert rotary.turn(x, cos, sin, 2).flatten().tolist() == [-2.0, 1.0, -4.0, 3.0]


def test_bfloat16_is_as_close_as_its_own_rounding() -> None:
    x, (cos, sin) = torch.randn(2, 9, 4, 64).bfloat16(), tables(1, 9, 32)
    got, want = rotary.turn(x, cos, sin, 1).double(), reference(x, cos, sin, 1)
    assert (got - want).norm() < 0.003 * want.norm()


def test_it_is_a_lawful_operator() -> None:
    x, (cos, sin) = torch.randn(2, 3, 2, 8, requires_grad=True), tables(1, 3, 4)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.espalier.rotary.default, (x, cos, sin, 1, 1.0), test_utils=checks
    )
