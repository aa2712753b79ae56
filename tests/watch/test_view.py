"""Order, rules and columns of a table; each change is a view of its own."""

import pytest

from espalier.errors import UserError
from espalier.watch import spark, view
from espalier.watch.rows import Row
from espalier.watch.view import Rule, View

COLUMNS = ("state", "norm", "best", "worker")


def row(key: str, norm: str, best: float | None, state: str = "COMPLETE") -> Row:
    return Row(key, {"state": state, "norm": norm, "best": best, "key": key})


ROWS = [row("a", "rms", 2.0), row("b", "layer", 3.0), row("c", "rms", 1.0), row("d", "rms", None)]


def keys(seen: View) -> str:
    return "".join(row.key for row in seen.rows(ROWS))


def test_the_first_key_decides_and_the_next_where_it_is_equal() -> None:
    assert keys(View().sorted("norm").sorted("best")) == "bcad"
    assert keys(View().sorted("best")) == "cabd"


def test_a_key_once_more_turns_round_and_a_third_time_goes() -> None:
    once = View().sorted("best")
    assert keys(once.sorted("best")) == "bacd"  # what is not known stays last
    assert once.sorted("best").sorted("best") == View()


def test_numbers_stand_before_words() -> None:
    mixed = [row("x", "rms", 1.0), Row("y", {"norm": 3}), Row("z", {"norm": 1.5})]
    assert "".join(r.key for r in View().sorted("norm").rows(mixed)) == "zyx"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("norm=rms", "acd"),
        ("norm != rms", "b"),
        ("best<=2", "ac"),
        ("best>2", "b"),
        ("state=complete", "abcd"),
        ("best!=2", "bcd"),
        ("best=null", "d"),
        ("norm<2", ""),
    ],
)
def test_a_rule_keeps_the_rows_where_it_holds(text: str, left: str) -> None:
    assert keys(View().ruled(view.rule(text, COLUMNS))) == left


def test_rules_hold_together() -> None:
    both = View().ruled(Rule("norm", "=", "rms")).ruled(Rule("best", "<", 2))
    assert keys(both) == "c"


def test_a_wrong_rule_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no column 'nrom'\. Did you mean 'norm'\?"):
        view.rule("nrom=rms", COLUMNS)
    with pytest.raises(UserError, match="'rms' is no rule: write COLUMN=VALUE"):
        view.rule("rms", COLUMNS)


def test_columns_go_and_move_and_the_rarer_are_out_of_sight_at_first() -> None:
    assert View().shows(COLUMNS) == ["state", "norm", "best"]
    less = View().without("norm", COLUMNS)
    assert less.shows(COLUMNS) == ["state", "best"]
    assert less.without("state", COLUMNS).without("best", COLUMNS).shows(COLUMNS) == ["best"]
    assert View().moved("best", -1, COLUMNS).shows(COLUMNS) == ["state", "best", "norm"]
    assert View().moved("state", -1, COLUMNS).shows(COLUMNS) == ["state", "norm", "best"]


def test_a_csv_has_numbers_in_full_and_no_curves() -> None:
    rows = [Row("a", {"best": 1 / 3, "norm": "r,s"})]
    assert view.to_csv(["curve", "best", "norm", "loss"], rows) == (
        'best,norm,loss\n0.3333333333333333,"r,s",\n'
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("age", 3.2, "3 s"),
        ("age", 3 * 3600 + 59, "3 h"),
        ("best", 2, "2.0000"),
        ("done", 0.256, "26 %"),
        ("parameters", 12345.0, "12,345"),
        ("state", "KILLED", "killed"),
        ("learning_rate", 0.0003, "0.0003"),
        ("bias", True, "true"),
        ("error", "a\n b", "a b"),
        ("loss", None, ""),
    ],
)
def test_a_cell_is_short(name: str, value: object, text: str) -> None:
    assert view.shown(name, value) == text  # type: ignore[arg-type]


def test_a_spark_goes_from_the_highest_mean_to_the_lowest() -> None:
    assert spark.line([4.0, 2.0, 1.5, 0.5], width=2) == "█▁"
    assert spark.line([0.0, 3.5, 8.0], width=12) == "▁▄█"
    assert spark.line([1.0, 1.0], width=4) == "▁▁"
    assert spark.line([], width=4) == ""


def test_lines_stand_in_columns() -> None:
    assert view.lines(["norm", "best"], ROWS[:2]) == [
        "norm   best",
        "rms    2.0000",
        "layer  3.0000",
    ]
