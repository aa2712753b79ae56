"""Native dropout: what stays, how much of it, and the same in the gradient."""

import pytest
import torch

from espalier.native import build, dropout

pytestmark = pytest.mark.skipif(not build.prepare(dropout), reason=f"no kernel: {build.why_not()}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stays_is_scaled_and_its_gradient_too(dtype: torch.dtype) -> None:
    x = torch.full((3, 50, 700), 3.0, dtype=dtype, requires_grad=True)
    y = dropout.drop(x, 0.25)
    y.backward(torch.full_like(y, 1.5))
    stays = y != 0
    assert x.grad is not None
    assert torch.equal(y, stays * 4.0)
    assert torch.equal(x.grad, stays * 2.0)
    # 105,000 draws: five standard deviations are 0.0067
    assert abs(stays.double().mean() - 0.75) < 0.0067


def test_runs_of_numbers_and_calls_are_drawn_apart() -> None:
    x = torch.ones(4, 4096)
    first, second = dropout.drop(x, 0.5) != 0, dropout.drop(x, 0.5) != 0
    pairs = [(first[0], first[1]), (first[0], first[2]), (first[0], second[0])]
    for a, b in [*pairs, (first[0, 1:], first[0, :-1])]:
        # independent halves agree half the time; six standard deviations of 4,096 are 0.047
        assert abs((a == b).double().mean() - 0.5) < 0.047


def test_a_seed_repeats_itself() -> None:
    x = torch.randn(5, 300)
    torch.manual_seed(4)
    first = dropout.drop(x, 0.3)
    torch.manual_seed(4)
    assert torch.equal(dropout.drop(x, 0.3), first)


def test_it_is_a_lawful_operator() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (x, 0.5, torch.tensor([9]))
    torch.library.opcheck(torch.ops.espalier.dropout.default, arguments, test_utils=checks)
