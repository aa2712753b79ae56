"""`espalier parts SLOT NAME`, and the page that is made of the same facts."""

import json
from pathlib import Path

import pytest

from espalier import cli
from espalier.cost.parts import facts
from tools import parts as page


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["parts", *words]) == 0
    return capsys.readouterr().out


def test_a_part_tells_what_it_computes_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "score", "softermax")
    assert "2^(s - max s) / sum 2^(s - max s)" in said
    assert "special functions: 1 max, 1 exp2, 1 divide" in said
    assert "passes over a row: 3" in said
    assert "goes on from a cache: yes" in said


def test_the_same_facts_come_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "ffn", "mlp", "--json"))
    assert told["cost"]["parameters"] == 2 * 4 * 768 * 768 + 5 * 768
    assert told["cost"]["flops"] == 2 * 2 * 4 * 768 * 768
    assert told["settings"][0] == {
        "name": "x_offset",
        "kind": "float",
        "default": "0.0",
        "summary": "x0",
    }


def test_an_optimizer_has_a_formula_and_no_size(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "optimizer", "muon")
    assert "orthogonalise" in said
    assert "parameters:" not in said


def test_a_part_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parts", "norm", "rsm"]) == 2
    assert "no norm named 'rsm'. Did you mean 'rms'?" in capsys.readouterr().err


def test_half_of_a_stack_that_shares_by_twos_is_left() -> None:
    layer = facts("block", "prenorm").parameters
    assert facts("stack", "plain").parameters == 12 * layer
    assert facts("stack", "shared").parameters == 6 * layer
    assert facts("stack", "shared").flops == facts("stack", "plain").flops


def test_a_token_costs_two_experts_of_eight() -> None:
    mlp, moe = facts("ffn", "mlp"), facts("ffn", "moe")
    assert moe.flops == mlp.flops + 2 * 768 * 8 + 2 * 8  # and the router, and each one's load
    assert moe.parameters == 4 * 2 * 4 * 768**2 + 8 * 768 + 8 * (4 * 384 + 768)


def test_the_page_of_parts_is_current() -> None:
    there = Path(page.PAGE).read_text(encoding="utf-8")
    assert there == page.page(), "docs/parts.md is old: make docs-parts"
