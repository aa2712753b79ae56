"""`espalier sweep`: from a file to a table, with real trainings."""

import json
from pathlib import Path

import pytest

from espalier import cli

SWEEP = """
recipe: shakespeare-char-cpu
seeds: [1, 2]
set: {model.n_layer: 1, model.n_embd: 16, model.block_size: 8, train.max_iters: 4,
  train.warmup_iters: 1, train.eval_interval: 4, evaluate.eval_iters: 2, evaluate.first: false}
grid: {model.block.norm: [rms]}
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    text, place = tmp_path / "text.txt", tmp_path / "corpus"
    text.write_text("all the world is a stage, and all the men and women " * 40, "utf-8")
    assert cli.main(["prepare", str(text), "--tokenizer", "char", "--out", str(place)]) == 0
    return place


@pytest.fixture
def words(tmp_path: Path, corpus: Path) -> list[str]:
    file = tmp_path / "norms.yaml"
    file.write_text(SWEEP, "utf-8")
    study = str(tmp_path / "study")
    return ["sweep", str(file), f"data.corpus={corpus}", "--out", study, "--device", "cpu"]


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, object]:
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_dry_run_says_what_is_ahead_and_leaves_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, [*words, "--dry-run"])
    assert (found["trials"], found["done"], found["bound"]) == (2, 0, "at least")
    assert not (tmp_path / "study").exists()


def test_a_sweep_trains_each_trial_once_and_shows_its_seeds_together(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = said(capsys, [*words, "--workers", "2"])
    (point,) = first["points"]  # type: ignore[misc]
    assert point["settings"] == {"model.block.norm": "rms"}
    assert point["seeds"] == [1, 2]
    assert point["half_width"] > 0
    again = said(capsys, words)
    assert again["points"] == first["points"]
    states = [json.loads(line)["state"] for line in (tmp_path / "study/study.jsonl").open()]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "STARTED", "STARTED"]
    assert said(capsys, ["report", str(tmp_path / "study")])["points"] == first["points"]


def test_a_wrong_word_ends_it_before_anything_is_written(words: list[str], tmp_path: Path) -> None:
    Path(words[1]).write_text(SWEEP.replace("norm", "nrom"), "utf-8")
    assert cli.main(words) == 2
    assert not (tmp_path / "study").exists()
