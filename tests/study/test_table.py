"""Seeds are replicates: their mean, and an interval by Student's t."""

import io
import math
from pathlib import Path

import pytest

from espalier.study.table import (
    columns,
    failed,
    interval,
    judged,
    latest,
    points,
    to_csv,
    to_parquet,
)
from tests.study.made import Made


def record(configuration: str, seed: int, loss: float | None) -> dict[str, object]:
    return {
        "key": f"{configuration}-s{seed}",
        "configuration": configuration,
        "seed": seed,
        "settings": {"model.n_layer": int(configuration)},
        "best_val_loss": loss,
        "seconds": 2.0,
    }


def test_three_values_have_the_interval_of_two_degrees_of_freedom() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 * 1.0 / math.sqrt(3))


def test_one_value_has_none() -> None:
    assert interval([1.5]).half is None
    assert str(interval([1.5])) == "1.5000"


def test_many_values_come_near_the_normal_distribution() -> None:
    # 61 values, 60 degrees of freedom: 2.0003 in tables
    values = [(-1.0) ** i for i in range(60)] + [0.0]
    half = interval(values).half
    assert half is not None
    assert half * math.sqrt(61) / 1.0 == pytest.approx(2.0003, abs=2e-3)


def test_configurations_come_in_the_order_of_their_mean_loss() -> None:
    found = points([record("1", 1, 3.0), record("2", 1, 2.0), record("1", 2, 0.5)])
    assert [(point.configuration, point.seeds) for point in found] == [("1", (1, 2)), ("2", (1,))]


def test_what_has_no_finite_loss_comes_last() -> None:
    found = points([record("1", 1, None), record("2", 1, 2.0)])
    assert [point.configuration for point in found] == ["2", "1"]


def test_what_lost_a_seed_comes_after_what_lost_none_however_low_its_mean() -> None:
    found = points([record("1", 1, 1.0), record("1", 2, None), record("2", 1, 2.0)])
    assert [point.configuration for point in found] == ["2", "1"]


def test_a_seed_that_failed_is_lost() -> None:
    (point,) = points([record("1", 1, 1.0), record("1", 3, 1.0)], [record("1", 2, None)])
    assert (point.seeds, point.lost) == ((1, 2, 3), (2,))


def test_seeds_without_a_finite_loss_are_not_counted_into_the_mean() -> None:
    (point,) = points([record("1", 1, 1.0), record("1", 2, 2.0), record("1", 3, None)])
    assert point.replicates == "2 of 3 seeds"


def test_what_lost_seeds_is_judged_where_nothing_else_is_there() -> None:
    unsteady = points([record("1", 1, 1.0), record("1", 2, None), record("3", 1, None)])
    assert [point.configuration for point in judged(unsteady)] == ["1"]


def test_a_trial_that_is_tried_again_has_not_failed(tmp_path: Path) -> None:
    made = Made(tmp_path / "study")
    for rate in (0.1, 0.2):
        made.note("FAILED", {"train.learning_rate": rate})
    made.note("STARTED", {"train.learning_rate": 0.1})
    assert [record["key"] for record in failed(made.place)] == ["0.2-s1"]


def test_a_line_of_the_csv_has_identity_settings_and_summary() -> None:
    assert to_csv([record("1", 7, 0.5)]).splitlines() == [
        "key,configuration,seed,model.n_layer,best_val_loss,seconds",
        "1-s7,1,7,1,0.5,2.0",
    ]


def test_what_has_parts_is_written_as_json() -> None:
    one = record("1", 1, 0.5) | {
        "settings": {"model.layers": [{"repeat": 2}], "data.mixture": None}
    }
    assert columns([one])["model.layers"] == ['[{"repeat": 2}]']
    assert columns([one])["data.mixture"] == [None]


def test_a_column_of_parquet_has_one_type() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the extra 'data'")
    values: list[dict[str, object]] = [{"a": 1, "b": 2, "c": True}, {"a": 0.5, "b": "rms"}]
    rows = [record(str(i), 1, 0.5) | {"settings": one} for i, one in enumerate(values, 1)]
    table = parquet.read_table(io.BytesIO(to_parquet(rows)))
    assert table.select(["a", "b", "c"]).to_pylist() == [
        {"a": 1.0, "b": "2", "c": True},
        {"a": 0.5, "b": "rms", "c": None},
    ]


def test_the_newest_record_of_a_trial_counts() -> None:
    first, second = record("1", 1, 3.0), record("1", 1, 2.0)
    assert latest([first, record("2", 1, 1.0), second])["1-s1"] == second
