"""examples/optimizers.py, schedules.py, losses.py and mixture.py, small."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from espalier.config import names
from espalier.train.slots import OptimizerConfig, ScheduleConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def test_every_optimizer_learns_to_classify(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("optimizers")["main"](["--steps", "30"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == names(OptimizerConfig)
    assert all(float(loss) < 1.0 for _, _, loss in rows)


def test_every_schedule_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("schedules")
    assert found["main"]([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names(
        ScheduleConfig
    )
    plateau = found["rates"]("plateau", 100)
    assert plateau[49] == 1.0  # the loss still falls
    assert plateau[-1] < 0.2


def test_losses_pull_where_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("losses")
    assert found["main"]([]) == 0
    assert "cross_entropy      0.100   0.600   0.950" in capsys.readouterr().out
    pulls = {name: found["pull"](loss) for name, loss in found["losses"]().items()}
    assert pulls["focal"][0] < 0.1 * pulls["cross_entropy"][0]
    assert pulls["top1"] == pytest.approx([0.05, 0.3, 0.95])
    assert pulls["label_smoothing"][0] < pulls["cross_entropy"][0]


def test_the_losses_of_two_corpora_cross(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example("mixture")["main"](["--steps", "60", "--out", str(tmp_path)]) == 0
    rows = [tuple(map(float, line.split())) for line in capsys.readouterr().out.splitlines()[1:]]
    (_, *third), (_, *last) = rows[3], rows[-1]
    assert third[0] < third[1]
    assert last[0] > last[1]
