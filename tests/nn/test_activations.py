"""Activations at -2, 0 and 2: from their formulas, and what makes the learned ones special."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import resolve
from espalier.errors import ConfigError
from espalier.nn.slots import ActivationConfig, Dims, Part, reset
from espalier.nn.state import at

DIMS = Dims(n_layer=1, n_embd=4, n_head=2, block_size=8, vocab_size=6)
NOW = at(torch.zeros(1, 3, dtype=torch.long))
E2 = math.exp(-2)
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772  # selu's, arXiv:1706.02515


def part(name: str, width: int = 3, **fields: Any) -> Part:
    made: Part = resolve(ActivationConfig, name)(**fields).build(width, DIMS, 0)  # type: ignore[attr-defined]
    reset(made, 0)
    return made.eval()


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize(
    ("name", "fields", "want"),
    [
        ("identity", {}, [-2, 0, 2]),
        ("relu6", {}, [0, 0, 2]),
        ("elu", {}, [E2 - 1, 0, 2]),
        ("celu", {"alpha": 2.0}, [2 * (math.exp(-1) - 1), 0, 2]),
        ("selu", {}, [SCALE * ALPHA * (E2 - 1), 0, SCALE * 2]),
        ("leaky_relu", {}, [-0.02, 0, 2]),
        ("prelu", {}, [-0.5, 0, 2]),
        ("prelu", {"per": "feature", "slope": 0.1}, [-0.2, 0, 2]),
        ("rrelu", {}, [-2 * (1 / 8 + 1 / 3) / 2, 0, 2]),
        ("mish", {}, [-2 * math.tanh(softplus(-2)), 0, 2 * math.tanh(softplus(2))]),
        ("sigmoid", {}, [E2 / (1 + E2), 0.5, 1 / (1 + E2)]),
        ("tanh", {}, [math.tanh(-2), 0, math.tanh(2)]),
        ("softsign", {}, [-2 / 3, 0, 2 / 3]),
        ("softplus", {}, [softplus(-2), math.log(2), softplus(2)]),
        ("softplus", {"beta": 2.0}, [softplus(-4) / 2, math.log(2) / 2, softplus(4) / 2]),
        (
            "shifted_gelu",
            {"shift": 2.0},
            [-4 * 0.5 * math.erfc(4 / math.sqrt(2)), -0.0455002639, 0],
        ),
    ],
)
def test_activation_at_minus_two_zero_and_two(
    name: str, fields: dict[str, Any], want: list[float]
) -> None:
    found: Tensor = part(name, **fields)(torch.tensor([-2.0, 0.0, 2.0]), NOW)
    assert found.tolist() == pytest.approx(want, abs=1e-6)


def test_relu6_ends_at_six() -> None:
    assert part("relu6")(torch.tensor([5.0, 7.0]), NOW).tolist() == [5.0, 6.0]


def test_a_random_slope_lies_between_its_bounds() -> None:
    made = part("rrelu", lower=0.1, upper=0.2).train()
    slopes = -made(-torch.ones(1000), NOW)
    assert 0.1 <= slopes.min() < 0.11
    assert 0.19 < slopes.max() <= 0.2


@pytest.mark.parametrize("name", ["rrelu", "piecewise", "spline"])
def test_bounds_that_cross_are_refused(name: str) -> None:
    low, high = ("lower", "upper") if name == "rrelu" else ("low", "high")
    with pytest.raises(ConfigError, match=rf"activation\.{low}=3\.0"):
        part(name, **{low: 3.0, high: 1.0})


def test_piecewise_by_hand() -> None:
    made = part("piecewise", points=3, low=-1.0, high=1.0)
    with torch.no_grad():
        made.get_parameter("y").copy_(torch.tensor([0.5, 0.0, 3.0]))
    x = torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert made(x, NOW).tolist() == pytest.approx([0.5, 0.5, 0.25, 0.0, 1.5, 3.0, 5.0])


def test_piecewise_starts_as_gelu_at_its_knots() -> None:
    knots = torch.linspace(-10, 10, 50)
    torch.testing.assert_close(part("piecewise")(knots, NOW), F.gelu(knots), atol=1e-5, rtol=0)


def test_knots_that_move_stay_in_order() -> None:
    made = part("piecewise", points=4, low=-1.0, high=1.0)
    with torch.no_grad():
        made.get_parameter("gaps").copy_(torch.tensor([-20.0, 5.0, -3.0]))
    assert made(torch.linspace(-5, 5, 101), NOW).isfinite().all()
    fixed = part("piecewise", points=4, learn_x=False)
    assert [name for name, _ in fixed.named_parameters()] == ["y"]


def test_a_spline_meets_itself_at_every_knot() -> None:
    made = part("spline", points=5).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
    knots = torch.linspace(-4, 4, 5, dtype=torch.float64)
    sides = []
    for side in (-1e-9, 1e-9):
        x = (knots + side).requires_grad_()
        y = made(x, NOW)
        (slope,) = torch.autograd.grad(y.sum(), x)
        sides.append((y.detach(), slope))
    for one, other in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=0)


def test_a_spline_starts_close_to_gelu() -> None:
    x = torch.linspace(-6, 6, 500)
    assert (part("spline")(x, NOW) - F.gelu(x)).abs().max() < 0.01
