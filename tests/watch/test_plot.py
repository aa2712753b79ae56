"""Dots in a terminal, and the places of values on their axes."""

from collections.abc import Sequence

import pytest

from espalier.study.axis import axis, short, words
from espalier.watch.plot import Canvas, Cell, Series, draw


def text(lines: Sequence[Sequence[Cell]]) -> list[str]:
    return ["".join(cell.text for cell in line).rstrip() for line in lines]


def test_the_corners_are_where_they_belong() -> None:
    canvas = Canvas(2, 1)
    canvas.line((0, 0), (0, 0), 0)
    canvas.line((1, 1), (1, 1), 0)
    assert text(canvas.rows()) == ["⡀⠈"]


def test_a_line_has_a_dot_in_every_column_on_its_way() -> None:
    canvas = Canvas(2, 1)
    canvas.line((0, 0), (1, 1), 0)
    assert text(canvas.rows()) == ["⡠⠊"]


def test_a_dot_alone_is_two_by_two_and_has_its_series() -> None:
    canvas = Canvas(1, 1)
    canvas.dot(0, 1, 3)
    ((cell,),) = canvas.rows()
    assert (cell.text, cell.series) == ("⠛", 3)


def test_a_plot_has_title_labels_and_the_size_that_was_asked_for() -> None:
    lines = text(draw([Series("a", [(0, 1.0), (100, 2.0)])], ("step", "loss"), 40, 10))
    assert lines[0] == "loss over step"
    assert lines[1].startswith("       2 │")
    assert lines[7].startswith("       1 │")
    assert lines[-1].split() == ["0", "100"]
    assert (len(lines), max(len(line) for line in lines)) == (10, 40)


def test_names_stand_under_their_points() -> None:
    cloud = Series("all", [("rms", 1.0), ("layer", 2.0), ("rms", 3.0)], joined=False)
    lines = text(draw([cloud], ("norm", "best"), 50, 10))
    assert lines[-1].split() == ["rms", "layer"]


def test_numbers_that_differ_by_ratios_have_places_by_ratio() -> None:
    rates = axis("rate", [1e-4, 1e-3, 1e-2])
    assert [rates.place(rate) for rate in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [label for _, label in rates.ticks()] == ["0.0001", "0.001", "0.01"]


def test_names_and_what_is_no_number_have_places_in_turn() -> None:
    norms = axis("norm", ["rms", None, True, "rms"])
    assert norms.names == ("rms", "null", "true")
    assert norms.place("null") == norms.place(None) == 0.5
    assert norms.place("layer") is None


def test_an_axis_has_round_numbers_on_it() -> None:
    found = axis("loss", [1.13, 1.21, 1.35, 1.5, 1.97]).ticks(5)
    assert [label for _, label in found] == ["1.2", "1.4", "1.6", "1.8"]
    assert found[0][0] == pytest.approx((1.2 - 1.13) / (1.97 - 1.13))


def test_a_value_that_is_not_finite_has_no_place() -> None:
    assert axis("loss", [1.0, float("nan"), 2.0]).place(float("nan")) is None


def test_settings_are_written_as_people_write_them() -> None:
    values = ("rms", True, 0.001, 12, {"name": "rms"}, {"name": "rms", "eps": 0.1}, [1, "a"])
    assert [words(value) for value in values] == [
        *("rms", "true", "0.001", "12", "rms"),
        "rms(eps=0.1)",
        '[1, "a"]',
    ]


def test_a_path_is_cut_to_what_tells_it_from_the_others() -> None:
    assert short(["model.norm", "model.block.norm", "train.learning_rate"]) == {
        "model.norm": "model.norm",
        "model.block.norm": "block.norm",
        "train.learning_rate": "learning_rate",
    }
