"""`espalier embeddings`: a table out and in again, and narrower, as runs that work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import espalier
from espalier import cli, fit
from espalier.config import encode
from espalier.data.chat import named
from espalier.durable import write_json
from espalier.pretrained.embeddings import TABLE
from tests.train import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    plan = tiny.experiment(tiny.corpus(folder / "data"), "train.max_iters=8")
    for _ in fit.fit(plan, folder / "run", device="cpu"):
        pass
    return folder / "run"


def embeddings(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    code = cli.main(["embeddings", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def logits(run: Path) -> torch.Tensor:
    ids = torch.arange(8)[None]
    with torch.no_grad():
        found: torch.Tensor = espalier.load(run).model(ids)
    return found


def test_a_table_saved_and_loaded_is_the_same_model(run: Path, tmp_path: Path, capsys) -> None:
    assert embeddings(capsys, run, "--save", tmp_path / "table.npy")[0] == 0
    code, found = embeddings(
        capsys, run, "--load", tmp_path / "table.npy", "--out", tmp_path / "same"
    )
    assert code == 0
    assert found["table"] == list(espalier.load(run).model.get_parameter(TABLE).shape)
    assert torch.equal(logits(tmp_path / "same"), logits(run))


def test_another_table_takes_its_place(run: Path, tmp_path: Path, capsys) -> None:
    table = np.ones(espalier.load(run).model.get_parameter(TABLE).shape)
    np.save(tmp_path / "ones.npy", table)
    code, _ = embeddings(capsys, run, "--load", tmp_path / "ones.npy", "--out", tmp_path / "b")
    assert code == 0
    held = espalier.load(tmp_path / "b").model.get_parameter(TABLE)
    assert torch.equal(held, torch.ones_like(held))


def test_a_projected_run_is_factorised_and_notes_its_parent(
    run: Path, tmp_path: Path, capsys
) -> None:
    code, found = embeddings(capsys, run, "--width", 4, "--out", tmp_path / "narrow")
    assert code == 0
    narrow, wide = espalier.load(tmp_path / "narrow"), espalier.load(run)
    ids, columns = wide.model.get_parameter(TABLE).shape
    before, after = found["parameters"]
    assert after - before == ids * 4 + 4 * columns - ids * columns
    assert narrow.model.get_parameter(TABLE).shape == (ids, 4)
    parent = narrow.run.environment["parent"]
    assert (parent["method"], parent["checkpoint"]) == ("gaussian", "step-00000008")
    assert isinstance(narrow.generate("a", 4, seed=1), str)


def test_a_made_run_converses_as_its_parent(run: Path, tmp_path: Path, capsys) -> None:
    write_json(run / "chat.json", encode(named("plain")))
    assert embeddings(capsys, run, "--width", 4, "--out", tmp_path / "narrow")[0] == 0
    assert espalier.load(tmp_path / "narrow").template == named("plain")


def test_all_singular_vectors_lose_nothing(run: Path, tmp_path: Path, capsys) -> None:
    width = espalier.load(run).config.model.n_embd
    code, found = embeddings(
        capsys, run, "--width", width, "--method", "svd", "--out", tmp_path / "turned"
    )
    assert code == 0
    assert found["squared_distances"] == pytest.approx({"least": 1, "mean": 1, "most": 1}, abs=1e-4)
    torch.testing.assert_close(logits(tmp_path / "turned"), logits(run), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say one of --save, --load, --width; got none"),
        (["--save", "a.npy", "--width", "4"], "got --save and --width"),
        (["--width", "4"], "--width makes a new run: say where, --out runs/NAME"),
        (["--save", "a.npy", "--out", "b"], "--save makes no run"),
        (["--save", "a.npy", "--seed", "1"], "--method and --seed are of --width"),
        (["--save", "nowhere/a.npy"], "cannot write nowhere/a.npy: nowhere is no directory"),
        (["--load", "nowhere.npy", "--out", "b"], "nowhere.npy is no table"),
        (["--width", "99", "--out", "b"], "a projection from 16 to 99 columns: take 1 to 16"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(run: Path, words, said: str, capsys) -> None:
    code, found = embeddings(capsys, run, *words)
    assert code == 2
    assert said in found["error"]
