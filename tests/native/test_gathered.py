"""Products with mostly-zero vectors: right, and blind to the weights that a zero meets."""

import pytest
import torch

from espalier.native import build, gathered

SHAPES = [(48, 32), (100, 256), (64, 1536), (7, 288), (33, 40)]  # 40 is torch's business


@pytest.fixture(params=[True, False], ids=["native", "torch"])
def kernel(request, monkeypatch):
    if request.param and not build.prepare(gathered):
        pytest.skip("no kernel here")
    monkeypatch.setattr(gathered, "ready", request.param)
    return request.param


def sparse(rows: int, n_in: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, n_in, generator=generator)
    return x * (torch.rand(rows, n_in, generator=generator) > 0.6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_product(kernel, shape, rows, dtype, bias):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    offset = torch.linspace(-1, 1, shape[1]) if bias else None
    x = sparse(rows, shape[0])
    want = x.double() @ weights.double() + (0 if offset is None else offset.double())
    got = gathered.Product(weights, offset)(x)
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_zero_meets_is_not_read(dtype):
    if not build.prepare(gathered):
        pytest.skip("no kernel here")
    weights, x = torch.randn(96, 320).to(dtype), sparse(1, 96)
    whole = gathered.Product(weights, None)(x)
    weights[x[0] == 0] = torch.nan
    assert torch.equal(gathered.Product(weights, None)(x), whole)


def test_a_row_does_not_depend_on_its_neighbours(kernel):
    product = gathered.Product(torch.randn(64, 96), None)
    x = sparse(5, 64)
    torch.testing.assert_close(product(x)[2:3], product(x[2:3]), atol=1e-5, rtol=1e-5)


def test_leading_dimensions_stay(kernel):
    product = gathered.Product(torch.randn(64, 96), None)
    assert product(sparse(6, 64).view(2, 3, 64)).shape == (2, 3, 96)
    assert product(torch.zeros(0, 64)).shape == (0, 96)
