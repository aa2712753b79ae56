"""Greedy search: efficiency with its signs, and the steps it takes, worked out by hand."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from espalier.errors import ConfigError
from espalier.search.plan import Plan
from espalier.search.slots import Strategy
from espalier.search.strategy.greedy import efficiency
from tests.search.synthetic import SMALL, plan

pytestmark = pytest.mark.usefixtures("any_corpus")

FILE = f"""
recipe: shakespeare-char-cpu
set: {{data.corpus: data/x, {SMALL}, model.block.ffn.width: 64}}
space:
  model.n_layer: {{low: 1, high: 4}}
  model.block.ffn.width: {{step: 32, low: 32, high: 128}}
strategy: {{name: greedy}}
"""


def test_efficiency_is_the_gain_for_each_unit_of_added_cost() -> None:
    assert efficiency(0.02, 100) == pytest.approx(2e-4)


def test_better_at_no_more_cost_is_infinitely_efficient() -> None:
    assert efficiency(0.001, 0) == math.inf
    assert efficiency(0.001, -50) == math.inf  # better and cheaper: the original refuses it


def test_worse_is_never_efficient_however_much_it_saves() -> None:
    assert efficiency(-0.01, -50) == pytest.approx(-2e-4)  # worse, cheaper: the original takes it
    assert efficiency(-0.01, 50) == pytest.approx(-2e-4)
    assert efficiency(-0.01, 0) == -math.inf
    assert efficiency(0.0, -50) == 0.0


def found(loss: float, parameters: float) -> dict[str, float]:
    return {"loss": loss, "parameters": parameters}


def answer(strategy: Strategy, results: Mapping[str, dict[str, float] | None]) -> list[Any]:
    """Ask for a whole batch, tell its results by the value that changed; what was asked."""
    batch = []
    while (one := strategy.ask(99)) is not None:
        batch.append(one)
    first = strategy.asked - len(batch)  # type: ignore[attr-defined]
    for i, one in enumerate(batch):
        key = f"{one.note['param'].rpartition('.')[2]}={one.note['value']}" if one.note else ""
        strategy.tell(first + i, results[key])
    return [one.note.get("value") for one in batch]


def begun(made: Plan) -> Strategy:
    strategy = made.search.strategy.build(made.problem)
    answer(strategy, {"": found(2.0, 1000)})
    return strategy


def test_the_most_efficient_step_is_taken_not_the_one_that_gains_most(tmp_path: Path) -> None:
    strategy = begun(plan(tmp_path, FILE))
    # exp(-1.8) - exp(-2) = 0.02996 for 2000; exp(-1.9) - exp(-2) = 0.01423 for 100
    results = {
        "n_layer=3": found(1.8, 3000),
        "n_layer=1": found(2.1, 500),
        "width=96": found(1.9, 1100),
        "width=32": found(2.05, 900),
    }
    assert answer(strategy, results) == [3, 1, 96, 32]
    assert strategy.chosen == 3
    (one,) = strategy.account["iterations"]
    table = {c["value"]: c for c in one["candidates"]}
    assert table[3]["efficiency"] == pytest.approx((math.exp(-1.8) - math.exp(-2)) / 2000)
    assert table[96]["efficiency"] == pytest.approx((math.exp(-1.9) - math.exp(-2)) / 100)
    assert table[1]["efficiency"] < 0
    assert one["chosen"]["value"] == 96
    assert one["baseline_config_after"] == {"model.block.ffn.width": 96}


def test_the_next_round_starts_from_the_chosen_and_its_own_numbers(tmp_path: Path) -> None:
    strategy = begun(plan(tmp_path, FILE))
    worse = found(3.0, 5000)
    better = dict.fromkeys(["n_layer=3", "n_layer=1", "width=32"], worse)
    answer(strategy, {**better, "width=96": found(1.9, 1100)})
    following = [strategy.ask(99) for _ in range(4)]
    assert [one.settings["model.block.ffn.width"] for one in following if one] == [96, 96, 128, 64]


def test_better_and_cheaper_wins_over_any_that_costs(tmp_path: Path) -> None:
    strategy = begun(plan(tmp_path, FILE))
    results = {
        "n_layer=3": found(1.0, 1001),
        "n_layer=1": found(1.99, 700),
        "width=96": found(1.9, 1100),
        "width=32": found(1.98, 900),  # both are free: the one that gains more
    }
    answer(strategy, results)
    assert strategy.chosen == 4


def test_it_ends_where_nothing_is_better_and_keeps_that_round_too(tmp_path: Path) -> None:
    strategy = begun(plan(tmp_path, FILE))
    names = ["n_layer=3", "n_layer=1", "width=96", "width=32"]
    answer(strategy, {**dict.fromkeys(names, found(2.2, 900)), "width=96": None})
    assert strategy.ended == "no candidate is better"
    assert strategy.chosen == 0
    account = strategy.account
    assert [one["action"] for one in account["iterations"]] == ["stop"]
    assert len(account["iterations"][0]["candidates"]) == 4
    assert account["iterations"][0]["chosen"] is None


def test_with_longer_the_baseline_is_measured_anew_at_the_new_length(tmp_path: Path) -> None:
    text = FILE.replace("name: greedy", "name: greedy, longer: 500")
    strategy = begun(plan(tmp_path, text))
    names = ["n_layer=3", "n_layer=1", "width=96", "width=32"]
    answer(strategy, dict.fromkeys(names, found(2.2, 900)))
    again = strategy.ask(99)
    assert again is not None
    assert again.settings == {"train.max_iters": 2500}
    strategy.tell(5, found(1.7, 1000))
    assert answer(strategy, dict.fromkeys(names, found(1.75, 900))) == [3, 1, 96, 32]
    # against the old 2.0 all four would have been better
    assert [one["action"] for one in strategy.account["iterations"]] == ["longer", "longer"]


@pytest.mark.parametrize(("ways", "values"), [("up", [3, 96]), ("down", [1, 32])])
def test_one_direction_may_be_asked_for(tmp_path: Path, ways: str, values: list[int]) -> None:
    made = plan(tmp_path, FILE.replace("name: greedy", f"name: greedy, ways: {ways}"))
    strategy = begun(made)
    steps = [strategy.ask(99) for _ in range(2)]
    assert [one.note["value"] for one in steps if one] == values


LAYERS = f"""
recipe: shakespeare-char-cpu
set:
  {SMALL.replace(", ", chr(10) + "  ")}
  data.corpus: data/x
  model.layers: [{{block: {{ffn: {{width: 32}}}}}}, {{block: {{ffn: {{width: 64}}}}}}]
space: {{model.n_layer: {{low: 1, high: 4}}, model.layers.*.block.ffn.width: {{step: 16}}}}
strategy: {{name: greedy, duplicate: each}}
"""


def widths(settings: dict[str, Any]) -> list[int]:
    return [entry["block"]["ffn"]["width"] for entry in settings["model.layers"]]


def test_layers_are_doubled_or_dropped_each_and_stepped_element_by_element(tmp_path: Path) -> None:
    strategy = begun(plan(tmp_path, LAYERS))
    batch = []
    while (one := strategy.ask(99)) is not None:
        batch.append(one)
    assert [widths(one.settings) for one in batch] == [
        [32, 32, 64],
        [32, 64, 64],
        [64],
        [32],
        [48, 64],
        [16, 64],
        [32, 80],
        [32, 48],
    ]
    assert [one.settings.get("model.n_layer") for one in batch[:4]] == [3, 3, 1, 1]


def test_the_middle_is_doubled_unless_each_is_asked_for(tmp_path: Path) -> None:
    strategy = begun(plan(tmp_path, LAYERS.replace("duplicate: each", "duplicate: middle")))
    one = strategy.ask(99)
    assert one is not None
    assert widths(one.settings) == [32, 32, 64]  # (2 - 1) // 2 = 0


def test_a_path_without_a_number_to_step_from_is_refused(tmp_path: Path) -> None:
    text = FILE.replace(", model.block.ffn.width: 64", "")
    with pytest.raises(ConfigError, match=r"model\.block\.ffn\.width: the baseline has no number"):
        plan(tmp_path, text)
