"""A table of runs from texts and headers; no weight is loaded, and nothing broken stops it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from espalier import config, fit
from espalier.analyze import checkpoints, rows
from espalier.config import encode
from espalier.durable import write_json
from espalier.errors import UserError
from espalier.provenance import environment
from espalier.run import MANIFEST, MODEL, Run
from espalier.train.parallel import pieces
from tests.train import tiny


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run, and others that came to grief."""
    folder = tmp_path_factory.mktemp("study")
    plan = tiny.experiment(tiny.corpus(folder / "data"), "train.max_iters=8")
    for _ in fit.fit(plan, folder / "runs" / "deep" / "whole", device="cpu"):
        pass
    whole = folder / "runs" / "deep" / "whole"
    cut = Path(shutil.copytree(whole, folder / "runs" / "cut"))
    newest = max((cut / "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"\xff" * 9)
    (cut / "results" / "train.json").unlink()
    Run.create(folder / "runs" / "young", encode(plan), environment())
    broken = Run.create(folder / "runs" / "broken", encode(plan), environment())
    (broken.path / "config.yaml").write_text("model: [", encoding="utf-8")
    lost = Path(shutil.copytree(whole, folder / "runs" / "lost"))
    (lost / "results" / "train.json").unlink()
    (lost / "metrics.jsonl").write_text(
        "\n".join(
            json.dumps({"kind": kind, "step": step, "loss": loss, "val_loss": loss})
            for kind, step, loss in [("eval", 0, 2.5), ("train", 1, 2.0), ("train", 2, None)]
        )
        + "\n",
        encoding="utf-8",
    )
    return folder


def table(study: Path) -> dict[str, checkpoints.Row]:
    return {row["run"]: row for row in checkpoints.table(study / "runs")}


def test_every_run_is_a_row_whatever_its_state(study: Path) -> None:
    found = table(study)
    assert list(found) == ["broken", "cut", "deep/whole", "lost", "young"]
    assert found["broken"]["status"].startswith("broken: ")
    assert found["young"]["status"] == "no checkpoint"
    assert found["deep/whole"]["status"] == "finished"
    assert (found["lost"]["status"], found["cut"]["status"]) == ("unfinished", "unfinished")
    assert found["cut"]["parameters"] is None


def test_the_figures_are_the_runs_own(study: Path) -> None:
    found = table(study)["deep/whole"]
    summary = json.loads((study / "runs/deep/whole/results/train.json").read_text("utf-8"))
    assert found["best_loss"] == summary["best_val_loss"]
    assert (found["best_step"], found["step"], found["nans"]) == (summary["best_step"], 8, 0)
    assert found["parameters"] == summary["parameters"]
    plan = tiny.experiment(study / "data", "train.max_iters=8", "model.vocab_size=11")
    stored = yaml.safe_load((study / "runs/deep/whole/config.yaml").read_text("utf-8"))
    assert stored["model"]["vocab_size"] == 11
    assert found["config"] == checkpoints.digest(encode(plan)) == config.digest(plan)


def test_parameters_are_counted_from_the_header(study: Path) -> None:
    found = table(study)
    assert found["lost"]["parameters"] == found["deep/whole"]["parameters"]


def test_adapters_are_counted_with_what_they_stand_beside(study: Path, tmp_path: Path) -> None:
    init = f"train.init={study / 'runs/deep/whole'}"
    plan = tiny.experiment(study / "data", init, "train.lora={rank: 2}", "train.max_iters=2")
    for _ in fit.fit(plan, tmp_path / "tuned", device="cpu"):
        pass
    trained = checkpoints.row(tmp_path / "tuned", tmp_path)["parameters"]
    (tmp_path / "tuned" / "results" / "train.json").unlink()
    assert checkpoints.row(tmp_path / "tuned", tmp_path)["parameters"] == trained


def test_weights_in_a_file_for_each_rank_are_whole_too(study: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(study / "runs" / "lost", tmp_path / "cut"))
    folder = run.latest()
    assert folder is not None
    file = folder / MODEL
    held = load_file(file)
    file.unlink()
    for rank in range(2):
        pieces_of = {name: pieces.own(tensor, rank, 2) for name, tensor in held.items()}
        save_file(pieces_of, folder / pieces.name_of(file, rank, 2))
    pieces.write_index(file, 2)
    write_json(folder / MANIFEST, {"files": dict.fromkeys(p.name for p in folder.iterdir())})
    found = checkpoints.row(run.path, tmp_path)
    assert found["parameters"] == sum(tensor.numel() for tensor in held.values())
    assert found["status"] == "unfinished"


def test_losses_that_were_not_finite_are_counted(study: Path) -> None:
    found = table(study)["lost"]
    assert (found["nans"], found["nan_step"], found["best_loss"]) == (1, 2, 2.5)


def test_the_recipe_is_what_the_command_line_named(tmp_path: Path) -> None:
    about = environment(argv=["espalier", "train", "seed=3", "gpt2", "--out", "x"])
    run = Run.create(tmp_path / "x", {}, about)
    assert checkpoints.row(run.path, tmp_path)["recipe"] == "gpt2"
    pruned = Run.create(tmp_path / "y", {}, environment(argv=[], parent={"run": "/runs/x"}))
    assert checkpoints.row(pruned.path, tmp_path)["recipe"] == "from x"


def test_no_torch_is_needed() -> None:
    code = "import sys, espalier.analyze.checkpoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_places_without_a_run_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at or below"):
        checkpoints.table(tmp_path)
    with pytest.raises(UserError, match="is no directory"):
        checkpoints.table(tmp_path / "nowhere")


ROWS = [
    {"run": "a", "loss": 2.0, "step": 10},
    {"run": "b", "loss": None, "step": 9},
    {"run": "c-wide", "loss": 1.5, "step": 10},
]
NAMES = ("run", "loss", "step")


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("loss<2", ["c-wide"]),
        ("loss <= 2", ["a", "c-wide"]),
        ("step>9", ["a", "c-wide"]),
        ("step=9", ["b"]),
        ("loss!=2.0", ["b", "c-wide"]),
        ("run~*wide*", ["c-wide"]),
        ("run==a", ["a"]),
    ],
)
def test_filters(expression: str, kept: list[str]) -> None:
    assert [row["run"] for row in rows.keep(ROWS, expression, NAMES)] == kept


@pytest.mark.parametrize("expression", ["loss", "<2", "__import__('os')", "lss<2"])
def test_what_is_no_filter_is_refused(expression: str) -> None:
    with pytest.raises(UserError, match=r"--filter takes COLUMN|no column 'lss'. Did you"):
        rows.keep(ROWS, expression, NAMES)


def test_rows_without_a_value_come_last_either_way() -> None:
    def names(*by: str, reverse: bool = False) -> list[str]:
        return [row["run"] for row in rows.ordered(ROWS, by, reverse=reverse)]

    assert names("loss") == ["c-wide", "a", "b"]
    assert names("loss", reverse=True) == ["a", "c-wide", "b"]
    assert names("step", "loss") == ["b", "c-wide", "a"]


def test_a_table_as_text_and_as_csv() -> None:
    assert rows.text(ROWS, NAMES) == [
        "run     loss  step",
        "a          2    10",
        "b          -     9",
        "c-wide   1.5    10",
    ]
    assert rows.as_csv(ROWS, NAMES).splitlines()[2] == "b,,9"
