"""Norms beside the usual two: numbers worked by hand, and what each does with a row of zeros."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.config import names, resolve
from espalier.nn.slots import Dims, NormConfig, Part, reset
from espalier.nn.state import at

DIMS = Dims(n_layer=1, n_embd=4, n_head=2, block_size=8, vocab_size=6)
NOW = at(torch.zeros(1, 3, dtype=torch.long))
X = [3.0, 4.0, 0.0, 12.0]


def part(name: str, width: int = 4, **fields: Any) -> Part:
    made: Part = resolve(NormConfig, name)(**fields).build(width, DIMS, 0)  # type: ignore[attr-defined]
    reset(made, 0)
    return made


def of(made: Part, x: list[float]) -> list[float]:
    found: Tensor = made(torch.tensor(x, dtype=torch.float64), NOW)
    return found.tolist()


@pytest.mark.parametrize(
    ("name", "fields", "factor"),
    [
        ("identity", {}, 1.0),
        ("hypersphere", {}, 2 / 13),  # sqrt(4) / |x|
        ("hypersphere", {"radius": 5.0, "learn": True}, 5 / 13),
        ("partial_rms", {"fraction": 0.5, "at_least": 1, "eps": 1e-12}, 1 / math.sqrt(12.5)),
        ("partial_rms", {"eps": 1e-12}, 2 / 13),  # fewer than 8 features: all of them
        ("k_rms", {"k": 2, "eps": 1e-12}, 1 / math.sqrt(12.5)),
        ("k_rms", {"k": 2, "features": "last", "eps": 1e-12}, 1 / math.sqrt(72)),
        # the first two are 3.5 off 1.8 of 6.5: recomputed when 5 % is the most, not when 90 % is
        ("k_rms", {"k": 2, "recompute": 0.05, "eps": 1e-12}, 2 / 13),
        ("k_rms", {"k": 2, "recompute": 0.9, "eps": 1e-12}, 1 / math.sqrt(12.5)),
    ],
)
def test_a_row_is_multiplied_by(name: str, fields: dict[str, Any], factor: float) -> None:
    assert of(part(name, **fields), X) == pytest.approx([factor * x for x in X])


def test_dynamic_tanh_at_its_start_is_tanh_of_a_half() -> None:
    assert of(part("dyt"), [2.0, -4.0, 0.0, 1.0]) == pytest.approx(
        [math.tanh(1), math.tanh(-2), 0.0, math.tanh(0.5)]
    )


def test_an_estimate_of_8_bits_counts_in_127ths_of_the_largest() -> None:
    made = part("k_rms", width=2, bits=8, eps=1e-12)
    # 0.3 of 1 is 38.1 of 127: held as 38
    square = ((38 / 127) ** 2 + 1) / 2
    assert of(made, [0.3, 1.0]) == pytest.approx([0.3 / math.sqrt(square), 1 / math.sqrt(square)])


def test_random_features_are_drawn_once() -> None:
    made = part("k_rms", width=64, features="random")
    x = torch.randn(64)
    assert torch.equal(made(x, NOW), made(x, NOW))
    assert sorted(made.get_buffer("chosen").tolist()) != list(range(10))
    assert len(set(made.get_buffer("chosen").tolist())) == 10


@pytest.mark.parametrize("name", names(NormConfig))
def test_a_row_of_zeros_stays_zero_and_its_gradient_finite(name: str) -> None:
    x = torch.zeros(4, requires_grad=True)
    y = part(name)(x, NOW)
    y.sum().backward()
    assert y.tolist() == [0.0] * 4
    assert x.grad is not None
    assert x.grad.isfinite().all()
