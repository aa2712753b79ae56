"""The examples of a model's parts run, and show what their first lines say."""

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@pytest.mark.parametrize(
    ("name", "arguments", "lines"),
    [
        ("ffn", ["--steps", "2"], 4),
        ("linear", ["--steps", "2"], 8),
        ("embed", ["--points", "20", "--width", "128"], 13),
        ("head", ["--steps", "2", "--tokens", "2"], 3),
        ("stack", ["--steps", "2"], 8),
        ("block", ["--layers", "4"], 6),
    ],
)
def test_an_example_prints_its_table(
    name: str, arguments: list[str], lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(name)["main"](arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == lines


def test_training_with_the_rounding_beats_rounding_afterwards() -> None:
    linear = load("linear")
    plain, few = linear["learn"](linear["DenseConfig"](), 200), linear["bits"](3)
    assert linear["measured"](linear["learn"](few, 200)) < linear["measured"](plain, few) / 2


def test_the_stream_grows_most_where_norms_stand_before_alone() -> None:
    sizes = load("block")["sizes"]
    before, behind, after = (sizes(places, 16)[-1] for places in (["pre"], ["peri"], ["post"]))
    assert before > 2 * after
    assert after == pytest.approx(1.0, abs=0.01)
    assert behind > after


def test_without_a_balance_loss_one_expert_does_nearly_all() -> None:
    learn = load("ffn")["learn"]
    assert learn(0.0, steps=60)[1] > 6
    assert learn(1.0, steps=60)[1] < 3
