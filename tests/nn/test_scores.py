"""Normalisers of attention: each formula by hand, and at its published defaults."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.config import resolve
from espalier.errors import ConfigError
from espalier.nn.slots import Dims, Part, ScoreConfig, reset
from espalier.nn.state import Pass, at

DIMS = Dims(n_layer=1, n_embd=4, n_head=2, block_size=8, vocab_size=6)
NOW = at(torch.zeros(1, 3, dtype=torch.long))
E = math.e


def part(name: str, **fields: Any) -> Part:
    made: Part = resolve(ScoreConfig, name)(**fields).build(DIMS, 0)  # type: ignore[attr-defined]
    reset(made, 0)
    return made


def weights(made: Part, *scores: float, hidden: int = 0) -> list[float]:
    """Of one row; the last `hidden` keys may not be seen."""
    row = torch.tensor([*scores], dtype=torch.float64)
    mask = torch.arange(len(row)) < len(row) - hidden
    found: Tensor = made(row.expand(1, 2, 1, -1), mask.expand(1, 1, 1, -1), NOW)
    return found[0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("name", "fields", "score", "weight"),
    [
        ("relumax", {}, 3.0, 3 / 256),
        ("relumax", {}, -3.0, 0.0),
        ("relu2max", {}, 3.0, 9 / 256),
        ("sigmoid", {}, 0.0, 0.5 / 256),
        ("softplus", {}, 0.0, math.log(2) / 100),
        ("squareplus", {}, 0.0, math.log(2) / 100),
        ("squareplus", {"divisor": 1.0}, 3.0, (3 + math.sqrt(9 + 4 * math.log(2) ** 2)) / 2),
        ("consmax", {}, 2.5, 1 / 100),
        ("consmax", {}, 3.5, E / 100),
        ("consmax", {"base": 2.0, "per": "head"}, 5.5, 8 / 100),
        ("consmax_v2", {}, 3.5, E / 100),
        ("consmax_v2", {"clamp": 2.0}, 9.0, E**2 / 100),
        ("consmax_quantised", {"beta": 2.504, "gamma": 99.96}, 3.5, E / 100),
        ("saturating_consmax", {}, 3.5, E / 100),
        ("saturating_consmax", {}, 13.5, E**11 / 100),
        ("saturating_consmax", {}, 20.0, E**11 / 100),
        ("polymax", {}, 0.0, 1 / 1000),
        ("polymax", {}, -50.0, 0.5 / 1000),
        ("polymax", {}, -101.0, 0.0),
        ("polymax", {}, 3.0, 10 / 1000),
        ("vpolymax", {}, -50.0, 1.5 / 1000),
        ("vpolymax", {}, -101.0, 0.0),
        ("vpolymax", {}, 3.0, 10 / 1000),
        ("exppolymax", {}, -1.0, 1 / E / 1000),
        ("exppolymax", {}, 0.0, 1 / 1000),
        ("exppolymax", {}, 1.5, 4.75 / 1000),  # (1.5 + 0.5)^2 + 1 - 0.25
    ],
)
def test_a_weight_of_one_score(
    name: str, fields: dict[str, Any], score: float, weight: float
) -> None:
    assert weights(part(name, **fields), score, 7.0, hidden=1) == pytest.approx([weight, 0.0])


@pytest.mark.parametrize(
    ("name", "fields", "scores", "expected"),
    [
        ("softmax", {}, [0.0, math.log(3)], [1 / 4, 3 / 4]),
        ("softermax", {}, [1.0, 2.0, 2.0], [1 / 5, 2 / 5, 2 / 5]),
        # e^s sigmoid(s) of 0 and ln 3 is 1/2 and 3 * 3/4
        ("sigsoftmax", {}, [0.0, math.log(3)], [2 / 11, 9 / 11]),
        ("strongermax", {}, [0.0, math.log(3)], [1 / 4, 3 / 4]),
        ("strongermax", {"base": 2.0, "tau": 2.0}, [0.0, 4.0], [1 / 5, 4 / 5]),
        # after the shift by the maximum: 1/3 and 1, beside a constant of 1
        ("strongermax", {"off_by_one": 1.0}, [0.0, math.log(3)], [1 / 7, 3 / 7]),
        ("strongermax", {"off_by_one": 1.0, "shift": "none"}, [0.0, math.log(3)], [1 / 5, 3 / 5]),
        ("strongermax", {"off_by_one": 1.0, "learn": "head"}, [0.0, 0.0], [1 / 3, 1 / 3]),
        ("strongermax", {"denominator": False, "shift": "guess"}, [1.0, 2.0], [1.0, E]),
        ("strongermax", {"denominator": False, "clamp": -1.0}, [1.0, 2.0], [1 / E, 1 / E]),
        ("strongermax", {"divisor": 4.0}, [0.0, 0.0], [1 / 8, 1 / 8]),
    ],
)
def test_weights_of_a_row(
    name: str, fields: dict[str, Any], scores: list[float], expected: list[float]
) -> None:
    found = weights(part(name, **fields), *scores, 50.0, hidden=1)
    assert found == pytest.approx([*expected, 0.0])


def test_by_length_divides_by_the_visible_keys() -> None:
    made = part("relumax", divisor=1.0, by_length=True)
    assert weights(made, 6.0, 3.0, 9.0, hidden=1) == pytest.approx([3.0, 1.5, 0.0])


@pytest.mark.parametrize(("base", "power"), [(E, 2.0), (2.0, 3.0), (4.0, 1.5)])
def test_exppolymax_keeps_its_value_and_slope_at_zero(base: float, power: float) -> None:
    made = part("exppolymax", base=base, power=power, divisor=1.0)
    slopes = []
    for side in (-1e-9, 1e-9):
        score = torch.tensor([[[[side]]]], dtype=torch.float64, requires_grad=True)
        value = made(score, torch.ones(1, 1, 1, 1, dtype=torch.bool), NOW)
        assert value.item() == pytest.approx(1.0, abs=1e-8)
        value.sum().backward()  # type: ignore[no-untyped-call]
        assert score.grad is not None
        slopes.append(score.grad.item())
    assert slopes == pytest.approx([math.log(base)] * 2, abs=1e-6)


def test_learned_constants_are_one_per_head() -> None:
    made = part("consmax", per="head")
    with torch.no_grad():
        made.get_parameter("beta")[1] += 1
    see = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    found = made(torch.full((1, 2, 1, 1), 3.5), see, Pass(torch.zeros(1, 1, dtype=torch.long)))
    assert found.flatten().tolist() == pytest.approx([E / 100, 1 / 100])


def test_rounding_passes_the_gradient_straight_through() -> None:
    made = part("consmax_quantised")
    beta = made.get_parameter("beta")
    with torch.no_grad():
        beta.copy_(torch.tensor(2.504))
    see = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    made(torch.full((1, 1, 1, 1), 2.5), see, NOW).sum().backward()
    assert beta.grad is not None
    assert beta.grad.item() == pytest.approx(-1 / 100)  # of e^(2.5 - 2.50) / 100


def test_a_constant_without_a_denominator_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"score\.denominator=true"):
        part("strongermax", denominator=False, off_by_one=1.0)


def test_half_precision_survives_large_scores() -> None:
    made = part("polymax")
    row = torch.full((1, 1, 1, 4), 300.0, dtype=torch.float16)  # 300^2 is past fp16's end
    found = made(row, torch.ones(1, 1, 1, 4, dtype=torch.bool), NOW)
    assert found.flatten().tolist() == pytest.approx([90.0] * 4)
