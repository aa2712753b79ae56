"""Statistics of pieces are those of the whole, with values worked by hand."""

import math

import pytest
import torch

from espalier.analyze.moments import Histogram, Moments, summary


def test_figures_of_one_to_four() -> None:
    found = Moments.of(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (found.mean, found.low, found.high) == (2.5, 1.0, 4.0)
    assert found.deviation == pytest.approx(math.sqrt(1.25))
    # m4 = (1.5^4 + 0.5^4) / 2 = 2.5625, m2 = 1.25
    assert found.excess_kurtosis == pytest.approx(2.5625 / 1.5625 - 3)


def test_excess_kurtosis_of_a_fair_coin_and_of_a_lone_spike() -> None:
    assert Moments.of(torch.tensor([-1.0, 1.0])).excess_kurtosis == pytest.approx(-2)
    # 0 0 0 4: mean 1, m2 = (3 + 9) / 4 = 3, m4 = (3 + 81) / 4 = 21
    spike = Moments.of(torch.tensor([0.0, 0.0, 0.0, 4.0]))
    assert spike.excess_kurtosis == pytest.approx(21 / 9 - 3)
    assert spike.figures()["zeros"] == 0.75


def test_excess_kurtosis_of_a_normal_distribution_is_nothing() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(1))
    assert abs(Moments.of(x).excess_kurtosis) < 0.02


def test_pieces_add_up_to_the_whole() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(2)) ** 4 + 1e4
    whole = Moments.of(x)
    parts = sum((Moments.of(part) for part in torch.split(x, 77)), Moments())
    for name in ("count", "mean", "low", "high", "m2"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert parts.excess_kurtosis == pytest.approx(whole.excess_kurtosis, rel=1e-9)


def test_what_is_not_finite_is_counted_apart() -> None:
    found = Moments.of(torch.tensor([1.0, math.nan, 3.0, math.inf]))
    assert (found.count, found.strange, found.mean) == (2, 2, 2.0)
    assert math.isnan(Moments.of(torch.tensor([math.nan])).figures()["mean"])


def test_numbers_without_spread_have_no_kurtosis() -> None:
    assert math.isnan(Moments.of(torch.tensor([2.0, 2.0])).excess_kurtosis)


def test_bins_of_a_histogram() -> None:
    found = Histogram()
    found.add(torch.tensor([0.25, 0.26, -0.5]))  # reach 1, bins of 1/64
    figures = found.figures()
    assert figures["edges"][0] == -0.5
    assert figures["counts"][0] == 1
    assert figures["counts"][-1] == 2  # 0.25 = 16/64, 0.26 < 17/64
    assert sum(figures["counts"]) == 3


def test_a_histogram_that_grew_counts_as_one_that_was_large_from_the_start() -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(3))
    grown, large = Histogram(), Histogram()
    for part in (x[x.abs() < 0.5], x[x.abs() >= 0.5], torch.tensor([7.0])):
        grown.add(part)
    large.add(torch.cat([torch.tensor([7.0]), x]))
    assert grown.figures() == large.figures()


def test_nothing_has_a_summary_too() -> None:
    assert summary([]).figures()["histogram"] == {"edges": [], "counts": []}
