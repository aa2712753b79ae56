"""examples/timeseries.py: a wave as tokens, learnt and gone on with."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "timeseries.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE), run_name="timeseries")


def test_the_example_prepares_trains_and_goes_on(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example["main"](["--steps", "2", "--out", str(tmp_path / "demo")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "10,801 training tokens, 129 ids"
    assert "rows ahead: error" in lines[1] or "no whole row" in lines[1]


def test_the_echo_is_the_wave_five_rows_later(example: dict[str, Any], tmp_path: Path) -> None:
    example["write"](tmp_path / "s.csv")
    rows = np.genfromtxt(tmp_path / "s.csv", delimiter=",", skip_header=1)
    assert np.array_equal(rows[5:, 2], rows[:-5, 1])
