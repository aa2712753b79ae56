"""Intervals against values that a pencil finds."""

import numpy as np
import pytest

from espalier.intervals import RESAMPLES, difference, mean_interval, ratio, resampled, wilson


def test_two_documents_are_drawn_as_one_twice_or_both():
    # losses 10 of 10 tokens and 60 of 30: draws give 1 (1/4), 70/40 (1/2) or 2 (1/4)
    totals, weights = np.array([10.0, 60.0]), np.array([10.0, 30.0])
    assert ratio(totals, weights, seed=3) == (1.75, 1.0, 2.0)
    drawn = resampled(totals, weights, seed=3)
    assert set(drawn) == {1.0, 1.75, 2.0}
    assert len(drawn) == RESAMPLES
    assert np.mean(drawn == 1.75) == pytest.approx(0.5, abs=0.06)


def test_long_documents_weigh_more():
    assert ratio(np.array([1.0, 300.0]), np.array([1.0, 100.0]), seed=0).mean == 301 / 101


def test_one_cluster_says_nothing_of_its_spread():
    assert ratio(np.array([3.0]), np.array([2.0]), seed=0) == (1.5, None, None)


def test_the_same_seed_gives_the_same_interval():
    values, ones = np.arange(20.0), np.ones(20)
    assert ratio(values, ones, 5) == ratio(values, ones, 5)
    assert ratio(values, ones, 5) != ratio(values, ones, 6)


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(size=400)
    found = ratio(values, np.ones(400), seed=0)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_models_that_differ_alike_on_every_document_differ_surely():
    other, weights = np.array([10.0, 60.0, 7.0]), np.array([10.0, 30.0, 5.0])
    assert difference(other + 0.5 * weights, other, weights, seed=1) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Wilson's formula with z = 1.96 by hand
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 4, 0.0456, 0.6994)],
)
def test_wilson(successes, count, low, high):
    found = wilson(successes, count)
    assert found.mean == successes / count
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_an_interval_by_hand() -> None:
    found = mean_interval(np.array([1.0, 2.0, 3.0]))  # standard deviation 1, over sqrt 3
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(1.959964 / 3**0.5)
    assert mean_interval(np.array([1.0]))["low"] is None
