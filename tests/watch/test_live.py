"""A study read while others write it: only what is new, and what it says of each trial."""

import json
from pathlib import Path

import pytest

from espalier import lock
from espalier.errors import UserError
from espalier.watch.live import Live
from espalier.watch.tail import MOST, Curve, Fresh, Tail
from tests.study.made import Made

RMS = {"model.block.norm": "rms", "train.learning_rate": 0.01}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "study")


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    tail = Tail(file)
    assert tail.read() == Fresh(False, [])
    file.write_text('{"a": 1}\n{"a": ', "utf-8")
    assert tail.read() == Fresh(True, [{"a": 1}])
    with file.open("a") as stream:
        stream.write("2}\n")
    assert tail.read() == Fresh(False, [{"a": 2}])
    assert tail.read() == Fresh(False, [])


def test_a_file_that_was_replaced_begins_anew(tmp_path: Path) -> None:
    file, other = tmp_path / "lines", tmp_path / "other"
    file.write_text('{"a": 1}\n', "utf-8")
    tail = Tail(file)
    tail.read()
    other.write_text('{"a": 1}\n{"a": 3}\n', "utf-8")
    other.replace(file)
    assert tail.read() == Fresh(True, [{"a": 1}, {"a": 3}])


def test_a_torn_line_in_the_middle_hides_no_other(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text('{"a"\n[1]\n{"a": 2}\n', "utf-8")
    assert Tail(file).read().records == [{"a": 2}]


def test_a_curve_takes_means_of_two_where_there_are_too_many() -> None:
    curve = Curve()
    for step in range(MOST + 2):
        curve.add(step, 2.0 * step)
    assert len(curve.points) == MOST // 2 + 1
    assert curve.points[0] == (0.5, 1.0)
    assert curve.points[-1] == (MOST + 0.5, 2.0 * MOST + 1)


def test_a_finished_trial_has_its_summary_and_its_curve(made: Made) -> None:
    made.end(RMS, loss=2.0, seed=3, parameters=1234)
    live = Live(made.place)
    live.refresh()
    (row,) = live.rows
    assert (row["state"], row["best"], row["done"], row["seed"]) == ("COMPLETE", 2.0, 1.0, 3)
    assert (row["norm"], row["learning_rate"], row["parameters"]) == ("rms", 0.01, 1234)
    assert row.train[0] == (10, 2.9)
    assert row.evals[-1] == (100, 2.0)
    assert live.settings == ("norm", "learning_rate")


def test_a_running_trial_shows_how_far_it_is_and_what_is_new(made: Made) -> None:
    key = made.begin(RMS, steps=100)
    live = Live(made.place)
    with lock.hold(made.place / "runs" / key / "lock"):
        made.train(key, [3.0, 2.5])
        live.refresh()
        assert (live.rows[0]["state"], live.rows[0]["done"]) == ("RUNNING", 0.2)
        assert live.rows[0]["loss"] == pytest.approx(2.6)
        made.train(key, [2.0], first=30)
        live.refresh()
        assert (live.rows[0]["done"], live.rows[0]["train"]) == (0.3, 2.0)
        assert len(live.rows[0].train) == 3


def test_a_start_that_nobody_owns_was_killed(made: Made) -> None:
    made.begin(RMS)
    live = Live(made.place)
    live.refresh()
    assert live.counts() == {"KILLED": 1}
    with lock.hold(made.place / "lock"):  # its sweep lives: the trial is just beginning
        live.refresh()
    assert live.counts() == {"RUNNING": 1}


def test_a_run_that_ended_before_it_was_recorded_is_complete(made: Made) -> None:
    key = made.begin(RMS)
    summary = json.dumps({"val_loss": 2.5, "best_val_loss": 2.25})
    (made.place / "runs" / key / "results" / "train.json").write_text(summary, "utf-8")
    live = Live(made.place)
    live.refresh()
    assert (live.rows[0]["state"], live.rows[0]["best"]) == ("COMPLETE", 2.25)


def test_a_failed_trial_says_why_and_how_often_it_was_tried(made: Made) -> None:
    for _ in range(2):
        made.begin(RMS)
        made.note("FAILED", RMS, error="loss was NaN")
    live = Live(made.place)
    live.refresh()
    (row,) = live.rows
    assert (row["state"], row["error"], row["tries"]) == ("FAILED", "loss was NaN", 2)


def test_a_trial_that_goes_on_from_a_checkpoint_forgets_what_came_after_it(made: Made) -> None:
    key = made.begin(RMS)
    made.train(key, [3.0, 2.0, 1.0])
    live = Live(made.place)
    live.refresh()
    file = made.place / "runs" / key / "metrics.jsonl"
    kept = file.read_text("utf-8").splitlines(keepends=True)[:2]
    file.with_suffix(".new").write_text("".join(kept), "utf-8")
    file.with_suffix(".new").replace(file)
    live.refresh()
    assert live.rows[0].train == ((10, 3.0),)


def test_what_ended_is_not_read_again(made: Made) -> None:
    key = made.end(RMS, loss=2.0)
    live = Live(made.place)
    live.refresh()
    made.log(key, kind="train", step=110, loss=9.0)
    live.refresh()
    assert live.rows[0]["train"] == 1.9


def test_a_little_time_is_enough_for_a_little_at_a_time(made: Made) -> None:
    for rate in (0.1, 0.2, 0.3):
        made.end({"train.learning_rate": rate}, loss=2.0)
    live = Live(made.place)
    read = []
    for _ in range(3):
        live.refresh(seconds=0.0)
        read.append(live.read)
    assert read == [False, False, True]
    assert all(len(row.evals) == 10 for row in live.rows)


def test_columns_of_one_name_keep_what_tells_them_apart(made: Made) -> None:
    made.end({"model.block.norm": "rms", "model.norm": "layer", "data.seed": 1}, loss=2.0)
    live = Live(made.place)
    live.refresh()
    assert live.settings == ("block.norm", "model.norm", "data.seed")


@pytest.mark.parametrize("text", ["{", "[1]\n"])
def test_a_damaged_record_is_one_line(made: Made, text: str) -> None:
    (made.place / "study.jsonl").write_text(f"{text}\n", "utf-8")
    with pytest.raises(UserError, match=r"study\.jsonl is damaged"):
        Live(made.place)


def test_what_is_no_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study at"):
        Live(tmp_path / "absent")
    with pytest.raises(UserError, match=r"it has no study\.jsonl"):
        Live(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="is one run, not a study; espalier report"):
        Live(tmp_path)
