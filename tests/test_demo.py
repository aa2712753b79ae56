"""The demo, with a model too small to learn: every stage runs, and running it again is safe."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from espalier import cli, console, experiment

pytest.importorskip("matplotlib", reason="the report needs the extra 'plots'")

TINY = [
    "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.block_size=16",
    "train.max_iters=4", "train.warmup_iters=1", "train.gradient_accumulation_steps=1",
    "train.eval_interval=2", "train.save_interval=2", "train.log_interval=1",
    "evaluate.eval_iters=4",
]  # fmt: skip


def test_the_demo_goes_all_the_way_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = experiment.load

    def tiny(recipe: str, overrides: Sequence[str] = ()) -> experiment.Experiment:
        assert recipe == "demo"
        return load("shakespeare-char-cpu", [*overrides, *TINY])

    monkeypatch.setattr(experiment, "load", tiny)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [text[:6] for text in found["samples"]] == ["import", "class ", "    de"]
    assert Path(found["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "train: 4 steps" in said.err
    weights = max(Path("runs/demo/checkpoints").rglob("model.safetensors")).read_bytes()

    assert cli.main(["demo", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["after"] == found["after"]
    assert again["samples"] == found["samples"]
    kept = max(Path("runs/demo/checkpoints").rglob("model.safetensors"))
    assert kept.read_bytes() == weights
    console.want_json(False)
