"""`espalier prune`, end to end on a run that trained for a second."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import espalier as esp
from espalier import cli, fit, report
from espalier.config import encode
from espalier.data.chat import named
from espalier.durable import write_json
from espalier.errors import UserError
from espalier.report import pruning
from espalier.run import Run
from tests.train import tiny

QUICK = ["--finetune-steps", "3", "--eval-windows", "8", "--speed-rounds", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    plan = tiny.experiment(tiny.corpus(folder / "data"), "train.max_iters=8")
    for _ in fit.fit(plan, folder / "run", device="cpu"):
        pass
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def prune(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    code = cli.main(["prune", *map(str, words), *QUICK, "--json"])
    caught = capsys.readouterr()
    return code, json.loads(caught.out), caught.err


def results(run: Path) -> Any:
    return json.loads((run / "results" / "prune.json").read_text(encoding="utf-8"))


def test_a_curve_has_everything_at_each_level(run: Path, capsys) -> None:
    code, _, _ = prune(capsys, run, "--levels", "0,50")
    assert code == 0
    found = results(run)
    assert found["format"] == "espalier-prune-1"
    (curve,) = found["curves"]
    assert curve["settings"]["texts"]["calibration"]["also_in_validation"] == 0
    whole, half = curve["levels"]
    assert (whole["sparsity"], half["sparsity"]) == (0, 0.5)
    prunable = 2 * 12 * 16 * 16
    assert half["parameters"]["prunable"] == prunable
    gone = whole["parameters"]["nonzero"] - half["parameters"]["nonzero"]
    assert abs(gone - prunable // 2) < 100  # biases that were zero have learned meanwhile
    assert half["flops_per_token"]["dense"] - half["flops_per_token"]["skipping_zeros"] == prunable
    assert half["bytes"]["sparse"] < half["bytes"]["dense"] == whole["bytes"]["dense"]
    assert half["loss"]["low"] < half["loss"]["mean"] < half["loss"]["high"]
    assert half["speed"]["decode"]["tokens_per_s"] > 0
    categories = [sample["category"] for sample in half["samples"]]
    assert len(categories) == 12
    assert categories.count("knowledge") == 3
    assert categories.count("code") == categories.count("science") == 2


def test_it_goes_on_at_the_next_level(run: Path, capsys) -> None:
    prune(capsys, run, "--levels", "0")
    first = results(run)["curves"][0]["levels"][0]
    prune(capsys, run, "--levels", "0,30")
    levels = results(run)["curves"][0]["levels"]
    assert [level["level"] for level in levels] == [0, 30]
    assert levels[0] == first
    prune(capsys, run, "--levels", "30", "--method", "wanda")
    assert len(results(run)["curves"]) == 2


def test_structured_runs_are_ordinary_runs_and_smaller(run: Path, capsys) -> None:
    _, found, _ = prune(capsys, run, "--levels", "60", "--method", "structured", "--keep")
    (level,) = found["runs"][str(run)]["levels"]
    assert level["removed_minus_masked"] < 1e-6
    kept = Path(level["run"])
    assert kept.name == "run-pruned-60"
    theirs, ours = (
        next(place.glob("checkpoints/*/model.safetensors")).stat().st_size for place in (run, kept)
    )
    assert ours < 0.6 * theirs
    environment = json.loads((kept / "environment.json").read_text(encoding="utf-8"))
    assert environment["parent"]["run"] == str(run.resolve())
    assert cli.main(["sample", str(kept), "--max-new-tokens", "5", "--device", "cpu"]) == 0
    capsys.readouterr()
    code, answer, _ = prune(capsys, run, "--levels", "60", "--method", "structured", "--keep",
                            "--seed", "2")  # fmt: skip
    assert code == 2
    assert "exists already" in answer["error"]


def test_a_pruned_run_converses_as_its_parent(run: Path, capsys) -> None:
    write_json(run / "chat.json", encode(named("plain")))
    _, found, _ = prune(capsys, run, "--levels", "50", "--keep")
    (level,) = found["runs"][str(run)]["levels"]
    assert esp.load(level["run"], device="cpu").template == named("plain")


def test_charts_come_from_the_file_alone(run: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    prune(capsys, run, "--levels", "0,50")
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    text = report.write(run).read_text(encoding="utf-8")
    assert "Pruning curve" in text
    assert "Efficiency frontier" in text
    content = results(run)
    content["curves"][0]["levels"][1]["perplexity"] = 1234.5
    content["layout"] = [{"layer": 0, "shape": ["8x2", "4x4"]}]
    (run / "results" / "prune.json").write_text(json.dumps(content), encoding="utf-8")
    text = report.write(run).read_text(encoding="utf-8")
    assert "1234.500" in text
    assert "branches by layer" in text


def test_several_runs_share_a_chart(run: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    code, found, _ = prune(capsys, run, other, "--levels", "0,50", "--chart", tmp_path / "charts")
    assert code == 0
    assert [Path(file).name for file in found["charts"]] == ["curve.svg", "frontier.svg"]
    text = (tmp_path / "charts" / "curve.svg").read_text(encoding="utf-8")
    assert ">other<" in text
    assert ">run<" in text


def test_a_run_with_a_longer_block_is_judged_on_the_shorter_ones_windows(
    run: Path, tmp_path: Path, capsys
) -> None:
    """As Pythia's of 2,048 tokens beside BioGPT's of 1,024."""
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    corpus = Path(Run.open(run).config["data"]["corpus"])
    plan = tiny.experiment(corpus, "train.max_iters=2", "model.block_size=16")
    for _ in fit.fit(plan, tmp_path / "longer", device="cpu"):
        pass
    words = ("--levels", "0", "--chart", tmp_path / "charts")
    code, found, _ = prune(capsys, run, tmp_path / "longer", *words)
    assert code == 0
    judged = [curve["settings"]["texts"]["validation"] for curve in found["runs"].values()]
    assert judged[0] == judged[1]
    assert judged[0]["block_size"] == 8


def test_runs_of_two_texts_are_told_so_before_the_work(run: Path, tmp_path: Path, capsys) -> None:
    plan = tiny.experiment(tiny.corpus(tmp_path / "data", train=2000), "train.max_iters=2")
    for _ in fit.fit(plan, tmp_path / "other", device="cpu"):
        pass
    code, answer, _ = prune(capsys, run, tmp_path / "other", "--chart", tmp_path / "charts")
    assert code == 2
    assert answer["error"] == "one chart takes one text, these runs have 2: --corpus DIR"
    assert not (run / "results" / "prune.json").exists()


def test_runs_judged_on_other_text_share_no_chart(run: Path, capsys) -> None:
    prune(capsys, run, "--levels", "0")
    content, other = results(run), results(run)
    other["curves"][0]["settings"]["texts"]["validation"]["windows"] = 9
    with pytest.raises(UserError, match="different windows of text"):
        pruning.figures({"a": content, "b": other})


def curve(**texts: Any) -> Any:
    """One level of a curve that was judged on `texts`."""
    judged = {"corpus": "a" * 64, "windows": 64, "weights": "w", **texts}
    windows = {"windows": judged["windows"], "block_size": 8}
    settings = {"method": {"name": "magnitude"}, "scope": "global", "pattern": None}
    settings |= {"include": [], "finetune": {"steps": 0}, "weights": judged["weights"]}
    settings |= {"texts": {"corpus": judged["corpus"], "validation": windows}}
    loss = {"mean": 2.0, "low": 1.9, "high": 2.1}
    level = {"level": 0.0, "sparsity": 0.0, "parameters": {"nonzero": 10}, "loss": loss}
    return {"settings": settings, "levels": [level]}


def test_runs_judged_on_another_corpus_share_no_chart() -> None:
    runs = {name: {"curves": [curve(corpus=name * 64)]} for name in "ab"}
    with pytest.raises(UserError, match="different texts"):
        pruning.figures(runs)


def test_curves_of_one_run_on_different_windows_have_charts_of_their_own() -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra 'plots'")
    drawn = pruning.figures({"a": {"curves": [curve(), curve(windows=9), curve(weights="v")]}})
    assert list(drawn) == ["curve-1", "frontier-1", "curve-2", "frontier-2"]


def test_curves_of_one_name_go_on_with_what_differs() -> None:
    found = pruning.curves({"a": {"curves": [curve(windows=9), curve(corpus="b" * 64)]}})
    assert [one.name for one in found] == [
        "magnitude, global, corpus aaaaaaaa, windows 9",
        "magnitude, global, corpus bbbbbbbb, windows 64",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--levels", "0,100"], "level 100 is outside"),
        (["--levels", "half"], "numbers with commas"),
        (["--method", "wandas"], "Did you mean 'wanda'"),
        (["--method", "sparsegpt", "--scope", "global"], "knows no --scope global: layer, row"),
        (["--pattern", "4:2"], "N below M"),
        (["--pattern", "2:3"], "no multiple of 3"),
        (["--include-head"], "shares the embedding"),
        (["--method", "structured", "--include-head"], "leave --include"),
        (["--corpus", "nowhere"], "does not exist"),
    ],
)
def test_wrong_words_get_one_line(run: Path, capsys, words: list[str], message: str) -> None:
    code, answer, _ = prune(capsys, run, *words)
    assert code == 2
    assert message in answer["error"]
    assert answer["error"].count("\n") == 0
