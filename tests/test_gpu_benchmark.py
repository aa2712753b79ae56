"""The GPU benchmark runs on a CPU, in small: the same ways, no figures worth anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import conduct, table
from benchmarks.gpu.measure import within
from benchmarks.gpu.scale import DRY, Place
from tests.conftest import ROOT


def test_a_section_leaves_rows_and_a_page(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    (tmp_path / "rows").mkdir()
    conduct.perform("train gpt2", DRY, place)
    sections = conduct.collect(place)
    rows = {row["name"]: row for row in sections["train gpt2"]}
    assert [row["ok"] for name, row in rows.items() if name != "end"] == [True, True]
    assert rows["gpt2, 2 rows"]["tokens_per_s"] > 0
    table.write(tmp_path, "dry", sections)
    assert "No row failed." in (tmp_path / "results.md").read_text("utf-8")
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["sections"] == sections


@pytest.mark.compile
def test_compiled_graphs_are_compared(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    (tmp_path / "rows").mkdir()
    conduct.perform("compile", DRY, place)
    rows = [row for row in conduct.collect(place)["compile"] if row["name"] != "end"]
    assert rows
    assert all(row["ok"] for row in rows)


def test_a_section_that_is_out_of_time_leaves_what_it_has(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    file = conduct.rows_file(place, "machine")
    file.parent.mkdir()
    file.write_text('{"name": "limits", "ok": true}\n{"name": "cut sh', encoding="utf-8")
    sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
    conduct._await("machine", sleeper, 0.0, place)
    assert sleeper.returncode < 0
    rows = conduct.collect(place)["machine"]
    assert [row["name"] for row in rows] == ["limits", "the section itself"]
    assert table.failures({"machine": rows})[2] == "* machine: the section itself: out of time"


def test_all_acts_together_fit_into_nine_minutes() -> None:
    longest = sum(act.seconds for act in conduct.ACTS if "loss 1.47" not in act.sections)
    assert conduct.TOTAL < 540
    assert longest + 100 < 1.25 * conduct.TOTAL  # few take all of theirs; the clock ends the rest


@pytest.mark.parametrize(("value", "ok"), [(0.5, True), (2.0, False), (float("nan"), False)])
def test_a_difference_is_right_below_its_bound(value: float, ok: bool) -> None:
    assert within(logits=(value, 1.0))["ok"] is ok


@pytest.mark.long
def test_the_whole_dry_run_passes(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be: that is the question.\n" * 400, encoding="utf-8")
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry", "--text", str(text)]
    python = {"PYTHON": sys.executable, "BUNDLE": str(tmp_path / "none")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        env=os.environ | python,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "No row failed." in done.stdout, done.stdout[:3000] + done.stderr
    assert done.returncode == 0
