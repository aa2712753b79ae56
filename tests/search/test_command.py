"""`espalier search`: from a file to a recipe, with real trainings."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from espalier import cli
from espalier.study.launch import choose
from espalier.study.launch.local import Local
from espalier.study.worker import Worker
from espalier.tree import read_yaml
from tests.search.synthetic import Instant, bowl

SMALL = """model.n_layer: 1, model.n_embd: 16, model.n_head: 2, model.block_size: 8,
  train.max_iters: 4, train.warmup_iters: 1, train.eval_interval: 4, train.keep: 1,
  evaluate: {eval_iters: 2, first: false}"""
RANDOM = f"""
recipe: shakespeare-char-cpu
set: {{{SMALL}}}
space: {{train.learning_rate: {{low: 1.0e-3, high: 1.0e-1, log: true}}}}
strategy: random
trials: 3
"""
HALVING = RANDOM.replace("strategy: random", "strategy: {name: halving, least: 2, eta: 2}")
BASELINE = """
n_layer: 1
n_head: 2
n_embd: 16
block_size: 8
mlp_size: 32
max_iters: 3
eval_interval: 3
eval_iters: 2
learning_rate: 1.0e-9
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    text, place = tmp_path / "text.txt", tmp_path / "corpus"
    text.write_text("all the world is a stage, and all the men and women " * 40, "utf-8")
    assert cli.main(["prepare", str(text), "--tokenizer", "char", "--out", str(place)]) == 0
    return place


def words(tmp_path: Path, corpus: Path, text: str) -> list[str]:
    file = tmp_path / "found.yaml"
    file.write_text(text, "utf-8")
    study = str(tmp_path / "study")
    return ["search", str(file), f"data.corpus={corpus}", "--out", study, "--device", "cpu"]


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_dry_run_says_what_is_ahead_and_leaves_nothing(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, [*words(tmp_path, corpus, RANDOM), "--dry-run"])
    assert (found["configurations"], found["bound"]) == (3, "at least")
    assert not (tmp_path / "study").exists()


def test_a_wrong_word_ends_it_before_anything_is_written(tmp_path: Path, corpus: Path) -> None:
    assert cli.main(words(tmp_path, corpus, RANDOM.replace("high", "hihg"))) == 2
    assert not (tmp_path / "study").exists()


def test_a_search_ends_with_a_recipe_that_train_takes(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = words(tmp_path, corpus, RANDOM)
    found = said(capsys, [*line, "--workers", "2"])
    assert (found["experiments"], found["reason"]) == (3, "3 trials")
    assert found["best"]["values"]["loss"] <= found["baseline"]["values"]["loss"]
    assert said(capsys, line)["best"] == found["best"]
    lines = (tmp_path / "study" / "study.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(one)["state"] for one in lines) == ["COMPLETE"] * 3 + ["STARTED"] * 3
    trained = said(capsys, ["train", found["recipe"], "--out", str(tmp_path / "again")])
    assert trained["best_val_loss"] == pytest.approx(found["best"]["values"]["loss"], rel=1e-6)


def test_what_halving_promotes_ends_as_if_it_had_never_stopped(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, words(tmp_path, corpus, HALVING))
    study = tmp_path / "study"
    entries = [json.loads(line) for line in (study / "search.jsonl").open()]
    promoted = next(one for one in entries if one.get("after") is not None)
    (key,) = promoted["keys"]
    run = study / "runs" / key
    assert json.loads((run / "environment.json").read_text("utf-8"))["resumed"][0]["step"] == 2
    straight = tmp_path / "straight"
    recipe = str(study / "trials" / f"{key}.yaml")
    if not Path(recipe).is_file():
        recipe = str(run / "config.yaml")
    said(capsys, ["train", recipe, "--out", str(straight)])
    losses = [
        json.loads((place / "results" / "train.json").read_text("utf-8"))["val_loss"]
        for place in (run, straight)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # the number of threads may differ
    assert found["best"]["keys"] == [key]


def test_the_originals_baseline_and_flags_leave_its_results_file(
    tmp_path: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def best_at_48(trial: Any) -> dict[str, Any]:
        loss = 1 + abs(trial.experiment.model.block.ffn.width - 48) / 100
        return bowl(trial) | {"val_loss": loss, "best_val_loss": loss}

    monkeypatch.setattr(
        "espalier.study.pool.Pool", lambda book, launcher: Instant(book, best_at_48)
    )
    line = words(tmp_path, corpus, BASELINE)
    results = tmp_path / "out.yaml"
    flags = ["--param_names", "n_layer", "mlp_size", "--increments", "16"]
    flags += ["--num_iterations", "2", "--results_file", str(results)]
    found = said(capsys, [*line, *flags])
    tree = read_yaml(results).tree
    assert set(tree) == {"baseline_config", "iterations", "stop_reason"}
    assert tree["stop_reason"] == found["reason"]
    assert [one["action"] for one in tree["iterations"]] == ["step", "stop"]
    last = tree["iterations"][-1]
    assert len(last["candidates"]) >= 3  # of the round that ended it, too
    one = tree["iterations"][0]["candidates"][0]
    assert {"param", "value", "loss", "score", "delta_score", "delta_cost", "efficiency"} <= set(
        one
    )


def test_workers_that_share_a_search_have_the_devices_of_this_machine_in_turn(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna is in the search extra")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy comes with optuna")
    calls: list[list[str]] = []

    class Ended:
        returncode = 0

        def __init__(self, words: list[str], **how: Any):
            calls.append(words[3:])

        def poll(self) -> int:
            return 0

    def launcher(where: Any, book: Any, memory: Any) -> Local:
        return Local(book, [Worker(i, f"cuda:{i}", 2) for i in range(2)])

    monkeypatch.setattr(choose, "launcher", launcher)
    monkeypatch.setattr(subprocess, "Popen", Ended)
    line = words(tmp_path, corpus, RANDOM.replace("strategy: random", "strategy: tpe"))
    assert cli.main([*line, "--storage", f"sqlite:///{tmp_path}/o.db"]) == 3  # nobody has trained
    study = str(tmp_path / "study")
    assert calls == [
        ["work", study, "--device", device, "--threads", "2"] for device in ("cuda:0", "cuda:1")
    ]


@pytest.mark.long
def test_workers_share_a_search_through_a_database(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="optuna is in the search extra")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy comes with optuna")
    line = words(tmp_path, corpus, RANDOM.replace("strategy: random", "strategy: tpe"))
    found = said(capsys, [*line, "--storage", f"sqlite:///{tmp_path}/o.db", "--workers", "2"])
    assert found["experiments"] >= 3
    assert Path(found["recipe"]).is_file()
