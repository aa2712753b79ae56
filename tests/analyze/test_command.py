"""`espalier analyze`, `colorize` and the looks of `sample`, on runs trained for a second."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from espalier import cli, fit, report
from espalier.commands.sample import How, to_options
from espalier.errors import UserError
from tests.pretrained.layouts import write_nanogpt
from tests.train import tiny

ON = ["--device", "cpu", "--windows", "4"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyze")
    corpus = tiny.corpus(folder / "data")
    for name, words in {
        "plain": (),
        "wiggle": ("model.block.ffn=wiggle", "model.block.ffn.gate=hard"),
        "cortical": ("model.block=cortical", "model.block.neurons=[4, 2]"),
    }.items():
        plan = tiny.experiment(corpus, "train.max_iters=8", *words)
        for _ in fit.fit(plan, folder / "runs" / name, device="cpu"):
            pass
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    code = cli.main([*map(str, words), "--json"])
    caught = capsys.readouterr()
    return code, json.loads(caught.out), caught.err


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert cli.main([*map(str, words)]) == 0
    return capsys.readouterr().out


def test_neurons_of_each_kind_of_model(study: Path, capsys, tmp_path: Path) -> None:
    table = tmp_path / "neurons.csv"
    words = ["--no-figures", *ON]
    _, found, err = call(capsys, "analyze", study / "runs/wiggle", *words, "--csv", table)
    assert list(found["sections"]) == ["oscillating", "activations", "dendrites", "told"]
    # each layer: soma 64 x 256, half of it; L 2 x 2
    assert "redundant: 16,392 parameters of dendrites add no function" in err
    with table.open(encoding="utf-8") as stream:
        rows = {(row["part"], row["figure"]): row["value"] for row in csv.DictReader(stream)}
    assert rows["trunk.stack.blocks.1.ffn.up", "redundant"] == "8196"
    kept = json.loads((study / "runs/wiggle/results/analyze-neurons.json").read_text("utf-8"))
    assert kept["sections"] == found["sections"]
    _, found, _ = call(capsys, "analyze", study / "runs/cortical", *words)
    assert len(found["sections"]["competition"]["trunk.stack.blocks.0"]["neurons"]) == 2
    _, found, _ = call(capsys, "analyze", study / "runs/plain", *words)
    assert list(found["sections"]) == ["activations"]


def test_activations_by_step_and_against_another_run(study: Path, capsys) -> None:
    words = ["--view", "activations", "--only", "*attention*", "--no-figures", *ON]
    run, other = study / "runs/plain", study / "runs/wiggle"
    code, found, _ = call(capsys, "analyze", run, *words, "--steps", "all", "--against", other)
    assert code == 0
    assert list(found["steps"]) == ["4", "8"]
    assert set(found["steps"]["8"]) == set(found["differences"])
    assert len(found["scores"]["8"]) == 2
    itself = call(capsys, "analyze", run, *words, "--against", run)[1]["differences"]
    assert {value for one in itself.values() for value in one.values()} == {0.0}


def test_weights_of_a_run_against_itself_are_no_way_off(study: Path, capsys) -> None:
    run = study / "runs/plain"
    words = ["--view", "weights", "--against", run, "--sort", "norm", "--reverse", "--no-figures"]
    code, found, err = call(capsys, "analyze", run, *words)
    assert code == 0
    assert {one["distance"] for one in found["differences"].values()} == {0.0}
    assert err.splitlines()[1].startswith("trunk.")


def test_a_checkpoint_folder_and_weights_from_elsewhere(study: Path, capsys, tmp_path) -> None:
    words = ["--view", "weights", "--no-figures"]
    folder = study / "runs/plain/checkpoints/step-00000004"
    _, found, _ = call(capsys, "analyze", folder, *words)
    assert list(found["steps"]) == ["4"]
    write_nanogpt(tmp_path / "ckpt.pt")
    code, found, err = call(capsys, "analyze", tmp_path / "ckpt.pt", *words)
    assert (code, found["files"]) == (0, [])
    assert "is no run: results and figures are not kept" in err


def test_a_table_of_runs(study: Path, capsys, tmp_path: Path) -> None:
    words = ["analyze", study / "runs", "--view", "checkpoints"]
    table = tmp_path / "runs.csv"
    text = said(
        capsys, *words, "--sort", "parameters", "--reverse", "--columns", "run,step",
        "--filter", "parameters>7000", "--filter", "nans=0", "--csv", table,
    )  # fmt: skip
    assert [line.split() for line in text.splitlines()] == [
        ["run", "step"],
        ["wiggle", "8"],
        ["cortical", "8"],
    ]
    assert table.read_text("utf-8") == "run,step\nwiggle,8\ncortical,8\n"
    assert len(call(capsys, *words)[1]["runs"]) == 3
    assert said(capsys, *words, "--filter", "step>99") == "no rows\n"


def test_figures_stand_in_results_and_in_the_report(study: Path, capsys, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    run = Path(shutil.copytree(study / "runs/wiggle", tmp_path / "run"))
    _, found, _ = call(capsys, "analyze", run, *ON)
    names = {Path(file).name for file in found["files"]}
    assert {"neurons-omega.svg", "neurons-omega.png", "neurons-silent.svg"} <= names
    assert all(Path(file).stat().st_size > 1000 for file in found["files"])
    page = report.write(run).read_text("utf-8")
    assert "omega of each layer" in page
    words = ["--view", "activations", "--only", "*.0.norm_1", "--steps", "all", *ON]
    _, found, _ = call(capsys, "analyze", run, *words)
    names = {Path(file).name for file in found["files"]}
    assert {"activations-deviation-by-step.svg", "activations-scores-before.png"} <= names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "5"], "has no checkpoint of step 5. There are: 4, 8"),
        (["--steps", "x"], "--steps takes all, or numbers with commas, not 'x'"),
        (["--windows", "0"], "--windows must be at least 1"),
        (["--view", "activations", "--only", "nothing"], "no module fits --only 'nothing'"),
        (["--view", "weights", "--sort", "nrm"], "no column 'nrm'. Did you mean 'norm'?"),
        (["--sort", "mean"], "--view neurons shows a table for each kind of part"),
        (["--view", "checkpoints", "--filter", "loss"], "--filter takes COLUMN<op>VALUE"),
        (["--corpus", "nowhere"], "nowhere does not exist"),
        (["--against", "x"], "--view neurons takes no --against"),
        (["--view", "checkpoints", "--steps", "all"], "--view checkpoints reads no model"),
        (["--view", "weights", "--only", "nothing"], "no weight fits --only 'nothing'"),
    ],
)
def test_what_cannot_be_is_one_clear_line(study: Path, capsys, words, message: str) -> None:
    code, found, _ = call(capsys, "analyze", study / "runs/plain", *words, "--no-figures")
    assert code == 2
    assert message in found["error"]


def test_a_sample_in_colour(study: Path, capsys, tmp_path: Path, monkeypatch) -> None:
    words = ["sample", study / "runs/plain", "--prompt", "abc", "--device", "cpu"]
    words += ["--max-new-tokens", "30", "--save", tmp_path / "out"]
    plain = said(capsys, *words[:-2])
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert said(capsys, *words, "--colorize").startswith(plain)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for mode in ("minmax", "probability", "rank", "dot"):
        painted = said(capsys, *words, "--colorize", mode)
        assert "\x1b[1;38;2;" in painted
        assert re.sub(r"\x1b\[[\d;]*m", "", painted).startswith(plain)
        page = (tmp_path / "out" / f"{mode}.html").read_text("utf-8")
        assert page.count("probability") >= 30  # a note for each token


def test_heatmaps_of_a_sample_and_of_each_token(study: Path, capsys, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    words = ["sample", study / "runs/plain", "--device", "cpu", "--max-new-tokens", 3]
    _, found, _ = call(capsys, *words, "--save", tmp_path / "one", "--heatmaps")
    names = [Path(file).name for file in found["files"]]
    assert names == ["heatmap-1.svg", "heatmap-1.png", "minmax-1.svg", "minmax-1.png"]
    _, found, _ = call(capsys, *words, "--save", tmp_path / "all", "--heatmaps", "each")
    assert len(found["files"]) == 4 + 2 * 3
    assert (tmp_path / "all" / "tokens-1" / "0003.png").stat().st_size > 1000


def test_several_top_k_in_one_call(study: Path, capsys) -> None:
    words = ["sample", study / "runs/plain", "--device", "cpu", "--max-new-tokens", "20"]
    _, found, _ = call(capsys, *words, "--top-k", "1", "--top-k=5", "--num-samples", "2")
    assert [one["top_k"] for one in found["samples"]] == [1, 1, 5, 5]
    first, second = (one["text"] for one in found["samples"][:2])
    assert first == second
    (alone,) = call(capsys, *words, "--top-k", "5")[1]["samples"]
    assert alone["text"] == found["samples"][2]["text"]


def test_the_cosine_penalty_tells_what_it_cost(study: Path, capsys) -> None:
    words = ["sample", study / "runs/plain", "--device", "cpu", "--max-new-tokens", "20"]
    assert call(capsys, *words, "--cosine-penalty", 5, 0)[1]["cosine_penalty_kl"] == 0
    code, found, err = call(capsys, *words, "--cosine-penalty", 5, 2)
    assert found["cosine_penalty_kl"] > 0.01
    assert "cosine penalty: mean KL(before || after)" in err
    draft = ["--cosine-penalty", 5, 2, "--draft", study / "runs/plain"]
    code, found, _ = call(capsys, *words, *draft)
    assert (code, found["error"][:30]) == (2, "a draft knows no cosine penalt")


def test_a_threshold_takes_the_place_of_top_k_unless_that_is_given() -> None:
    sampling = to_options(How(softmax_threshold=0.5)).sampling
    assert (sampling.min_p, sampling.top_k) == (0.5, None)
    assert to_options(How(softmax_threshold=0.5), 7).sampling.top_k == 7
    assert to_options(How()).sampling.top_k == 200
    with pytest.raises(UserError, match="are one rule"):
        to_options(How(softmax_threshold=0.5, min_p=0.1))


@pytest.mark.parametrize("window", ["block", "rolling"])
def test_a_corpus_in_colour(study: Path, capsys, tmp_path: Path, window: str) -> None:
    page = tmp_path / "text.html"
    words = ["colorize", study / "data", "--run", study / "runs/plain", "--device", "cpu"]
    code, found, _ = call(capsys, *words, "--tokens", 40, "--window", window, "--html", page)
    assert code == 0
    losses = [token["loss"] for token in found["tokens"]]
    assert len(losses) == 39
    assert found["loss"] == pytest.approx(sum(losses) / 39, rel=1e-5)
    assert page.read_text("utf-8").count("<i ") == 39


def test_a_corpus_that_cannot_be_coloured(study: Path, capsys) -> None:
    words = ["colorize", study / "data", "--run", study / "runs/plain", "--device", "cpu"]
    for more, message in (
        (["--tokens", 1], "--tokens at least 2"),
        (["--offset", 999], "val has 301 tokens: none to show from 999 on"),
    ):
        code, found, _ = call(capsys, *words, *more)
        assert code == 2
        assert message in found["error"]
