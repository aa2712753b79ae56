"""The runs that a file of the original's form asks for, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from espalier.errors import ConfigError
from espalier.study import expand
from espalier.study.expand import spread
from espalier.study.reading import documents


def runs(tmp_path: Path, text: str, name: str = "sweep.yaml") -> list[dict[str, Any]]:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return [one for document in documents(file) for one in expand.combinations(document)]


def test_scalars_are_fixed_and_lists_multiplied_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = runs(tmp_path, "n_layer: [2, 3]\ndataset: minipile\nn_head: [4, 6]\n")
    assert [(one["n_layer"], one["n_head"]) for one in found] == [(2, 4), (2, 6), (3, 4), (3, 6)]
    assert {one["dataset"] for one in found} == {"minipile"}


def test_a_range_of_whole_numbers_has_its_end() -> None:
    assert spread(2, 8, 3) == [2, 5, 8]
    assert spread(2, 4) == [2, 3, 4]
    assert spread(2, 9, 3) == [2, 5, 8]


def test_a_range_of_fractions_has_its_end_too() -> None:
    # 0.3 / 0.1 is 2.9999999999999996, which cut off would lose the end
    assert spread(0.0, 0.3, 0.1) == [0.0, 0.1, 0.2, 0.3]
    assert spread(0.5, 0.8) == [0.5, 0.6, 0.7, 0.8]


def test_a_condition_adds_its_options_only_where_it_holds(tmp_path: Path) -> None:
    text = """
softmax_variant_attn: [softmax, consmax]
consmax_base: {conditions: [[softmax_variant_attn, consmax]], options: [2, 4]}
"""
    assert runs(tmp_path, text) == [
        {"softmax_variant_attn": "softmax"},
        {"softmax_variant_attn": "consmax", "consmax_base": 2},
        {"softmax_variant_attn": "consmax", "consmax_base": 4},
    ]


def test_a_condition_may_depend_on_an_earlier_one(tmp_path: Path) -> None:
    text = """
attention_variant: [causal, infinite]
use_concat_heads: {conditions: [[attention_variant, infinite]], options: [true, false]}
n_v_head_dim: {conditions: [[use_concat_heads, true]], options: [16, 32]}
"""
    assert len(runs(tmp_path, text)) == 1 + 2 + 1


def test_all_of_several_conditions_must_hold_and_true_is_not_1(tmp_path: Path) -> None:
    text = """
bias: [true, false]
n_layer: [1, 2]
dropout: {conditions: [[bias, true], [n_layer, 2]], options: [0.1, 0.2]}
n_head: {conditions: [[bias, 1]], options: [1, 2, 3]}
"""
    assert len(runs(tmp_path, text)) == 4 + 1


def test_groups_go_on_top_of_the_rest_each_in_its_turn(tmp_path: Path) -> None:
    text = """
max_iters: [100, 200]
n_layer: 6
parameter_groups:
  - {use_post_ln: [true], n_head: [2, 4, 8]}
  - {use_post_ln: [false], max_iters: [300]}
"""
    found = runs(tmp_path, text)
    assert len(found) == 2 * 3 + 1
    assert found[-1] == {"max_iters": 300, "n_layer": 6, "use_post_ln": False}


def test_in_a_group_a_word_is_a_word_and_a_range_a_range(tmp_path: Path) -> None:
    text = "parameter_groups:\n  - {dataset: ab, n_layer: {range: {start: 1, end: 3}}}\n"
    assert [one["n_layer"] for one in runs(tmp_path, text)] == [1, 2, 3]


def test_a_file_may_hold_several_documents_and_lists_of_settings(tmp_path: Path) -> None:
    assert len(runs(tmp_path, "n_layer: [1, 2]\n---\nn_layer: [3, 4, 5]\n")) == 5
    assert len(runs(tmp_path, "- n_layer: [1, 2]\n- n_layer: [3, 4, 5]\n")) == 5


def test_json_is_read_as_well(tmp_path: Path) -> None:
    text = '[{"n_layer": [1, 2], "n_head": {"range": {"start": 1, "end": 3}}}]'
    assert len(runs(tmp_path, text, "sweep.json")) == 6


def test_a_list_in_a_list_is_one_value(tmp_path: Path) -> None:
    assert runs(tmp_path, "sizes: [[1, 2], [3]]\n") == [{"sizes": [1, 2]}, {"sizes": [3]}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_layer: []", "sweep.yaml:1: n_layer has no values"),
        ("n_layer: {rang: {start: 1, end: 2}}", "n_layer takes a value, a list"),
        (
            "n_layer: {range: {start: 1, stop: 2}}",
            "n_layer.range has start, end and step, got start, stop",
        ),
        ("n_layer: {range: {start: a, end: 2}}", "start, end and step are numbers"),
        ("n_layer: {range: {start: 1, end: 2, step: ''}}", "start, end and step are numbers"),
        ("n_layer: {range: {start: 1, end: .inf}}", "start, end and step are numbers"),
        ("n_layer: {range: {start: 3, end: 1}}", "-1 values from 3 to 1"),
        ("n_layer: {range: {start: 1, end: 3, step: 0}}", "step must be above 0"),
        ("a: 1\nb: {conditions: [[aa, 1]], options: [2]}", "sweep.yaml:2: b depends on 'aa'"),
        ("a: 1\nb: {conditions: [a, 1], options: [2]}", "a list of .key, value."),
        ("a: 1\n---\nb: {options: [2]}", "sweep.yaml:3: b takes conditions and options"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        runs(tmp_path, text)
