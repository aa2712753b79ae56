"""Linear CKA."""

import pytest
import torch

from espalier.analyze import similarity


def test_a_rotation_and_a_scale_change_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert similarity.cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-12)
    assert similarity.cka(x, x @ torch.randn(6, 6, dtype=torch.float64)) < 0.999


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    y = torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    # X^T X = 2 I, of norm 2 sqrt 2; Y^T Y = 2; Y^T X = (2, 0): 4 / (2 * 2 sqrt 2)
    assert similarity.cka(x, y) == pytest.approx(0.5**0.5)
    assert similarity.cka(y, x) == pytest.approx(0.5**0.5)
    assert similarity.cka(x[:, 1:], y) == 0


def test_what_never_moves_is_like_nothing() -> None:
    assert similarity.cka(torch.ones(4, 2), torch.arange(8.0).view(4, 2)) == 0
