"""Linear maps beside the plain one: numbers by hand, gradients that pass straight through."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.config import resolve
from espalier.errors import ConfigError
from espalier.nn.linear.kan import Legendre, Spline
from espalier.nn.rounding import Grid, ternary
from espalier.nn.slots import Dims, LinearConfig, Part, reset
from espalier.nn.state import at

DIMS = Dims(n_layer=1, n_embd=4, n_head=2, block_size=8, vocab_size=6, bias=False)
NOW = at(torch.zeros(1, 3, dtype=torch.long))


def part(name: str, n_in: int, n_out: int, dims: Dims = DIMS, **fields: Any) -> Part:
    made: Part = resolve(LinearConfig, name)(**fields).build(n_in, n_out, dims, 0)  # type: ignore[attr-defined]
    reset(made, 0)
    return made


def test_eight_symmetric_bits_are_127ths_of_the_largest() -> None:
    got = Grid(8)(torch.tensor([[1.27, 0.014, -0.016, -0.5], [0.0, 0.0, 0.0, 0.0]]))
    assert got[0].tolist() == pytest.approx([1.27, 0.01, -0.02, -0.5])
    assert got[1].tolist() == [0.0] * 4


def test_two_affine_bits_are_four_steps_from_the_least_to_the_largest() -> None:
    got = Grid(2, "affine")(torch.tensor([[-1.0, -0.4, 0.4, 2.0]]))
    assert got[0].tolist() == pytest.approx([-1.0, 0.0, 0.0, 2.0])


def test_a_row_or_the_whole_tensor_decides_the_step() -> None:
    x = torch.tensor([[127.0, 1.0], [1.0, 0.004]])
    assert Grid(8)(x)[1].tolist() == pytest.approx([1.0, 1 / 127])
    assert Grid(8, whole=True)(x)[1].tolist() == pytest.approx([1.0, 0.0])


def test_half_a_level_moves_half_way_and_the_gradient_is_one() -> None:
    x = torch.tensor([127.0, 0.4], requires_grad=True)
    got = Grid(8, level=0.5)(x)
    assert got.tolist() == pytest.approx([127.0, 0.2])
    (grad,) = torch.autograd.grad(got.sum(), x)
    assert grad.tolist() == [1.0, 1.0]


def test_ternary_weights_are_the_mean_size_or_nothing() -> None:
    weight = torch.tensor([[1.0, -0.2], [0.9, -1.9]], requires_grad=True)  # mean size 1
    got = ternary(weight)
    assert got.tolist() == [[1.0, 0.0], [1.0, -1.0]]
    (grad,) = torch.autograd.grad((got * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum(), weight)
    assert grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_bitnet_is_a_product_of_small_integers() -> None:
    made = part("bitnet", 2, 1)
    with torch.no_grad():
        made.get_parameter("weight").copy_(
            torch.tensor([[3.0, -1.0]])
        )  # s = 2: (1.5 -> 1, -0.5 -> 0)
    # 0.3 of 1 is 38.1 of 127; 3 / 2 rounds to 2 and is clipped to 1; -1 / 2 rounds to 0
    assert made(torch.tensor([0.3, 1.0]), NOW).item() == pytest.approx(2 * 38 / 127)


@pytest.mark.parametrize("fields", [{}, {"weights": {"scheme": "affine", "per": "tensor"}}])
def test_eight_bits_are_near_the_plain_product(fields: dict[str, Any]) -> None:
    made = part("fake_quantised", 64, 32, **fields)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    exact = x @ made.get_parameter("weight").T
    assert (made(x, NOW) - exact).norm() < 0.02 * exact.norm()
    assert not torch.equal(made(x, NOW), exact)


def test_activations_and_weights_get_nearly_the_plain_products_gradient() -> None:
    made = part("fake_quantised", 64, 32)
    x = torch.randn(5, 64, requires_grad=True)
    weight = made.get_parameter("weight")
    up = torch.randn(5, 32)
    got = torch.autograd.grad(made(x, NOW), (x, weight), up)
    want = (up @ weight, up.T @ x)
    for mine, exact in zip(got, want, strict=True):
        assert (mine - exact).norm() < 0.02 * exact.norm()


def test_a_learned_range_clips_and_learns_as_lsq_says() -> None:
    made = part("fake_quantised", 1, 1, activations={"per": "tensor", "bits": 3, "range": 3.0})
    grid = made.get_submodule("activations")
    size = grid.get_parameter("range")
    # 3 bits: steps of 3 / 3 = 1, from -3 to 3
    assert grid(torch.tensor([5.0, 1.4, -0.6])).tolist() == [3.0, 1.0, -1.0]
    # dy/ds is round(x/s) - x/s inside and 3 beyond; s = range / 3
    for x, slope in ((5.0, 3.0), (1.4, -0.4), (-0.6, -0.4)):
        (grad,) = torch.autograd.grad(grid(torch.tensor([x])).sum(), size)
        assert grad.item() == pytest.approx(slope / 3, abs=1e-6)


def test_one_range_for_all_tokens_cannot_be_affine() -> None:
    with pytest.raises(ConfigError, match=r"per=tensor learns one range.*scheme=affine"):
        part("fake_quantised", 2, 2, activations={"per": "tensor", "scheme": "affine"})


def test_low_rank_starts_as_large_as_one_matrix() -> None:
    made = part("low_rank", 512, 256)
    inner, outer = made.get_parameter("inner"), made.get_parameter("weight")
    assert inner.shape == (64, 512)
    assert (outer @ inner).std().item() == pytest.approx(DIMS.std, rel=0.05)
    x = torch.randn(3, 512)
    torch.testing.assert_close(made(x, NOW), x @ (outer @ inner).T, atol=1e-5, rtol=1e-4)


def test_low_rank_refuses_a_rank_above_the_shorter_side() -> None:
    with pytest.raises(ConfigError, match=r"linear\.rank=5 is more than the shorter side of 8x4"):
        part("low_rank", 8, 4, rank=5)


def test_legendre_polynomials_are_of_tanh() -> None:
    t = 0.5
    got = Legendre(3)(torch.tensor([math.atanh(t)]))[0]
    assert got.tolist() == pytest.approx([t, (3 * t * t - 1) / 2, (5 * t**3 - 3 * t) / 2])


def test_b_splines_add_up_to_one_on_their_grid_and_vanish_beyond() -> None:
    basis = Spline(degree=3, grid=5, reach=2.0)
    x = torch.linspace(-1.99, 1.99, 50, dtype=torch.float64)
    assert basis(x).shape == (50, 8)
    torch.testing.assert_close(basis(x).sum(-1), torch.ones(50, dtype=torch.float64))
    assert not basis(torch.tensor([5.6, -5.6])).any()


def test_a_cubic_b_spline_is_two_thirds_at_its_middle() -> None:
    got: Tensor = Spline(degree=3, grid=4, reach=2.0)(torch.tensor([0.0]))[0]
    assert got.tolist() == pytest.approx([0, 0, 1 / 6, 2 / 3, 1 / 6, 0, 0])


def test_kan_adds_curves_to_a_map_of_silu() -> None:
    made = part("kan", 1, 1, order=1)
    with torch.no_grad():
        made.get_parameter("weight").fill_(2.0)
        made.get_parameter("edges").fill_(10.0)
    silu = 1 / (1 + math.exp(-1))
    assert made(torch.tensor([1.0]), NOW).item() == pytest.approx(2 * silu + 10 * math.tanh(1))
