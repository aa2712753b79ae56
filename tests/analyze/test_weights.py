"""Statistics of weights, and the distance of two checkpoints."""

import pytest
import torch

from espalier.analyze import weights


def test_figures_of_a_tensor() -> None:
    found = weights.figures({"a": torch.tensor([[3.0, -4.0]]), "ids": torch.tensor([1])})
    assert list(found) == ["a"]
    assert found["a"]["shape"] == [1, 2]
    assert (found["a"]["norm"], found["a"]["mean"]) == (5.0, -0.5)


def test_distance_and_cosine_of_what_both_have() -> None:
    mine = {"a": torch.tensor([1.0, 1.0]), "b": torch.ones(2), "c": torch.ones(3)}
    theirs = {"a": torch.tensor([2.0, 0.0]), "c": torch.ones(4)}
    found = weights.differences(mine, theirs)
    assert list(found) == ["a"]
    assert found["a"]["distance"] == pytest.approx(2**0.5 / 2)
    assert found["a"]["cosine"] == pytest.approx(0.5**0.5)
    assert found["a"]["mean"] == 0.0
