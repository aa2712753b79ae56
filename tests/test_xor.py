"""examples/xor.py: one oscillating neuron separates XOR, and one that never turns back cannot."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "xor.py"


@pytest.fixture(scope="module")
def xor():
    return runpy.run_path(str(EXAMPLE), run_name="xor")


def test_a_single_oscillating_neuron_learns_xor(xor):
    neuron, loss = xor["learn"]("oscillating", seed=0, steps=1200)
    assert ((neuron(xor["INPUTS"]) > 0).float() == xor["WANTED"]).all()
    assert loss < 0.02


def test_a_monotone_one_gets_three_of_four_at_best(xor):
    # the best line leaves one point among the others: (3 / 4) ln(3 / 2) + ... = 0.4774 nats
    _, loss = xor["learn"]("tanh", seed=0, steps=1200)
    assert loss == pytest.approx(0.4774, abs=0.001)


def test_the_table_is_printed(xor, capsys):
    assert xor["main"](["--seeds", "1", "--steps", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["oscillating", "z^2", "gelu", "tanh"]
    assert len(lines[-4:]) == 4
