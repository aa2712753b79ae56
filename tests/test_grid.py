"""The sweep file that ships: every value of every setting is one that the recipe takes."""

from pathlib import Path

import yaml

from espalier.experiment import load
from espalier.nn.gpt import sketch

GRID = Path(__file__).parents[1] / "examples" / "wigglegpt-grid.yaml"


def test_every_value_of_the_grid_makes_a_model() -> None:
    plan = yaml.safe_load(GRID.read_text(encoding="utf-8"))
    for path, values in plan["grid"].items():
        for value in values:
            experiment = load(plan["recipe"], [f"{path}={value}"])
            assert sketch(experiment.model).trunk is not None
