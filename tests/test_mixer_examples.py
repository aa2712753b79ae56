"""examples/{attention,positions,steering}.py at toy size: they run, and show what they claim."""

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@pytest.fixture(scope="module")
def steering() -> dict[str, Any]:
    return example("steering")


@pytest.mark.parametrize("name", ["attention", "positions"])
def test_every_kind_has_its_row(name, capsys):
    shown = example(name)
    assert shown["main"](["--steps", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == list(shown["KINDS"])


def test_a_state_of_fixed_size_stays_small():
    shown = example("attention")
    sizes = {kind: shown["remembers"](shown["model"](kind)) for kind in ("causal", "mla", "linear")}
    # two layers: 1,024 places and a bin, of 64 + 64 numbers and a position; the same of a latent
    # of 16, a key of 4 and a position; or 4 heads of 16 x (16 + 1) numbers
    assert sizes == {
        "causal": 2 * 1025 * (128 * 4 + 8),
        "mla": 2 * 1025 * (20 * 4 + 8),
        "linear": 2 * 4 * 16 * 17 * 4,
    }


def test_steering_prints_both_parts(steering, capsys):
    assert steering["main"](["--steps", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.long
def test_a_vector_turns_the_model_about(steering):
    told, read = (steering["learn"](300, told=told) for told in (True, False))
    assert steering["as_corpus"](told, 0)[:3] == [6, 7, 8]
    assert steering["as_corpus"](told, 1)[:3] == [4, 3, 2]
    assert steering["turned"](read, 0.0)[:3] == [6, 7, 8]
    assert steering["turned"](read, 4.0)[:3] == [4, 3, 2]
