"""`espalier check`: what a model is made of, in words and in JSON."""

import pytest

from espalier.commands.check import check
from espalier.errors import UserError


def test_the_published_biogpt_shows_its_layout(capsys: pytest.CaptureFixture[str]) -> None:
    found = check("biogpt-reference")
    said = capsys.readouterr().out
    assert "28 neurons, 168 branches" in said
    assert "zone: middle; 3 neurons; 18 branches; shape: 8x96, 6x128, 4x192" in said
    assert "feedback: unused (1 pass); links: 8 -> 0, 9 -> 1, 10 -> 2, 11 -> 3" in said
    assert "unused       7,108,608 are read by no pass: 287,424,028 live" in said
    assert "162,322,944: +132,209,692 here (+81.4%)" in said
    assert found["layout"][1] == {
        "part": "trunk.stack.blocks.0",
        "zone": "early",
        "neurons": 2,
        "branches": 16,
        "shape": ["8x96", "8x96"],
    }
    assert found["against"]["more"] == 132_209_692
    assert found["parameters"]["unused"] == 7_108_608


def test_biogpt_has_no_feedback_and_nothing_unused(capsys: pytest.CaptureFixture[str]) -> None:
    check("biogpt")
    said = capsys.readouterr().out
    assert "feedback: none (1 pass)" in said
    assert "unused" not in said


def test_a_plain_model_has_nothing_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    found = check("gpt2")
    assert (found["layout"], found["against"]) == ([], None)
    assert "layout" not in capsys.readouterr().out


def test_a_circuit_is_told_its_work_energy_and_area(capsys: pytest.CaptureFixture[str]) -> None:
    found = check("gpt2", hardware="int8", array="32x16")["hardware"]
    said = capsys.readouterr().out
    assert "stack.blocks.*.attention.score: 147,456 max, 147,456 exp, 147,456 divide" in said
    # 4 matrices of 768 x 768 and two of 768 x 3072 in 12 layers, the head, scores of 1,024 keys
    weights = 12 * (4 * 768**2 + 2 * 768 * 3072) + 50257 * 768
    assert found["token"]["products"] == weights + 12 * 2 * 1024 * 768
    assert found["token"]["remembered_bytes"] == 12 * 2 * 1024 * 768
    assert found["array"]["area_mm2"] == pytest.approx(32 * 16 * (282 + 137) * 1e-6)


@pytest.mark.parametrize("array", ["16", "0x4", "16x16x2", "ax4", "5000x1"])
def test_an_array_without_two_sides_is_refused(array: str) -> None:
    with pytest.raises(UserError, match="ROWSxCOLUMNS"):
        check("shakespeare-char-cpu", "model.vocab_size=65", hardware="int8", array=array)
