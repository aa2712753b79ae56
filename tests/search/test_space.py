"""Values that a path may take: drawn, stepped through, refused."""

import math
from random import Random
from typing import Any

import pytest

from espalier.errors import ConfigError
from espalier.search.space import Choice, Range, each_layer, values


def read(written: Any) -> Any:
    return values("a.b", written, lambda key: "search.yaml:3")


def test_whole_numbers_stay_whole_and_have_their_ends() -> None:
    found = read({"low": 2, "high": 6})
    assert found == Range(2, 6, whole=True)
    assert {found.draw(Random(i)) for i in range(60)} == {2, 3, 4, 5, 6}


def test_fractions_are_drawn_evenly_or_by_ratio() -> None:
    luck = Random(1)
    low = [read({"low": 0.001, "high": 1.0, "log": True}).draw(luck) for _ in range(400)]
    # between 0.001 and 1 lie three powers of ten: a third of the draws in each
    assert sum(value < 0.01 for value in low) / 400 == pytest.approx(1 / 3, abs=0.07)
    even = [read({"low": 0.001, "high": 1.0}).draw(luck) for _ in range(400)]
    assert sum(value < 0.5 for value in even) / 400 == pytest.approx(1 / 2, abs=0.07)


def test_steps_make_a_grid_and_with_log_a_step_is_a_factor() -> None:
    assert {read({"low": 64, "high": 200, "step": 64}).draw(Random(i)) for i in range(40)} == {
        64,
        128,
        192,
    }
    by_ratio = read({"low": 1e-3, "high": 1e-2, "step": 2.0, "log": True})
    assert [by_ratio.value(i) for i in range(by_ratio.size)] == [0.001, 0.002, 0.004, 0.008]
    assert by_ratio.holds(0.004)
    assert not by_ratio.holds(0.003)


def test_neighbours_lie_both_ways_as_far_as_the_range_goes() -> None:
    assert read({"low": 2, "high": 6}).near(4, 1) == [5, 3]
    assert read({"low": 2, "high": 6}).near(5, 3) == [6, 4, 3, 2]
    assert read({"low": 0.0, "high": 0.5, "step": 0.1}).near(0.3, 1) == [0.4, 0.2]
    assert read({"low": 1e-4, "high": 1e-2, "log": True}).near(1e-3, 1) == [2e-3, 5e-4]
    assert read({"step": 16}).near(64, 2) == [80, 96, 48, 32]


def test_numbers_of_a_list_have_neighbours_and_names_are_all_near() -> None:
    assert Choice((64, 96, 128, 192)).near(96, 1) == [128, 64]
    assert Choice(("layer", "rms", "dyt")).near("rms", 1) == ["layer", "dyt"]


def test_a_path_of_each_layer_becomes_one_for_every_layer() -> None:
    one = Range(1, 2, whole=True)
    space = {"model.layers.*.block.ffn.width": one, "seed": one}
    assert list(each_layer(space, 2)) == [
        "model.layers.0.block.ffn.width",
        "model.layers.1.block.ffn.width",
        "seed",
    ]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([1], "has 1 values"),
        (3, "takes a list"),
        ({"low": 3, "high": 1}, "low must be less than high, got 3 and 1"),
        ({"low": 0, "high": 1, "log": True}, "log needs low above 0"),
        ({"low": 1, "high": 8, "log": True, "step": 1}, "a factor above 1"),
        ({"low": 1}, "needs low and high, or at least a step"),
        ({"lwo": 1, "high": 2}, "unknown field 'lwo'.* Did you mean 'low'"),
        ({"low": "a", "high": 2}, "low.* must be"),
    ],
)
def test_what_makes_no_range_is_said_with_its_line(written: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.yaml:3: .*{said}"):
        read(written)


def test_a_draw_by_ratio_never_leaves_its_range() -> None:
    found = Range(1, 9, log=True, whole=True)
    draws = {found.draw(Random(i)) for i in range(300)}
    assert draws == set(range(1, 10))
    assert all(math.isfinite(one) for one in draws)
