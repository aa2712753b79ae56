"""`espalier export`: what is left in the folder computes what the run computes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import espalier as esp
from espalier import cli
from espalier.config import decode
from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.export import verify
from espalier.nn.gpt import GPTConfig
from tests.export.models import LLAMA
from tests.export.runs import make_run

pytest.importorskip("transformers")


def export(*words: str) -> int:
    return cli.main(["export", *words])


def test_a_model_with_parts_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = make_run(tmp_path / "run", {"position": "fire"}), tmp_path / "out"
    assert export(str(run), "--to", "hf", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "EspalierForCausalLM in a clean process: largest logit difference" in said
    assert {file.name for file in out.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "modeling_espalier.py",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_native_model_imports_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", LLAMA | {"vocab_size": 256}, ByteTokenizer())
    out = tmp_path / "out"
    assert export(str(run), "--to", "hf", "--out", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["loaded"]) == ("llama", "LlamaForCausalLM")
    assert told["largest_difference"] < 1e-5
    assert "3 texts spelled alike" in told["verdict"]
    mine, back = (esp.load(str(place), device="cpu") for place in (run, out))
    for name, tensor in mine.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], tensor)
    assert back.tokenizer.encode("To be").tolist() == list(b"To be")


def test_safetensors_hold_every_bit(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", {}), tmp_path / "out"
    assert export(str(run), "--to", "safetensors", "--out", str(out)) == 0
    held, model = load_file(out / "model.safetensors"), esp.load(str(run), device="cpu").model
    assert held.keys() == model.state_dict().keys()
    assert all(torch.equal(held[name], t) for name, t in model.state_dict().items())
    tree = json.loads((out / "config.json").read_text(encoding="utf-8"))["model"]
    assert decode(GPTConfig, tree) == esp.load(str(run), device="cpu").config.model


@pytest.mark.parametrize(("off", "kept"), [(0.9e-4, True), (1.1e-4, False)])
def test_an_export_that_computes_something_else_is_not_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    off: float,
    kept: bool,
) -> None:
    run, out = make_run(tmp_path / "run", {}), tmp_path / "out"
    model = esp.load(str(run), device="cpu").model

    def loaded(asked, ids, texts, dtype="float32"):
        with torch.no_grad():
            logits = model.to(getattr(torch, dtype))(ids)
        spelled = [esp.load(str(run)).tokenizer.encode(text).tolist() for text in texts]
        return logits + off, {"class": "Nobody", "texts": spelled, "wrong": {}}

    monkeypatch.setattr(verify, "_run", loaded)
    assert export(str(run), "--to", "hf", "--out", str(out)) == (0 if kept else 2)
    wrong = "the export computes something else than the model" in capsys.readouterr().err
    assert (wrong, out.exists()) == (not kept, kept)
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clean process, which takes seconds."""
    verdict = verify.Verdict("Nobody", 0.0, None, 1.0, 0)
    monkeypatch.setattr(verify, "require", lambda *_: verdict)


def test_gguf(tmp_path: Path, unchecked: None, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    run = make_run(tmp_path / "run", LLAMA)
    out = tmp_path / "exports" / "out"
    assert export(str(run), "--to", "gguf", "--weights", "q8_0", "--out", str(out)) == 0
    assert [file.name for file in out.iterdir()] == ["model-q8_0.gguf"]
    assert "note: the file has no vocabulary" in capsys.readouterr().out
    run = make_run(tmp_path / "other", {"position": "fire"})
    assert export(str(run), "--to", "gguf", "--out", str(tmp_path / "none")) == 2
    assert "built otherwise: --to hf" in capsys.readouterr().err


def test_what_cannot_be_is_one_line(
    tmp_path: Path, unchecked: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", {})
    for words, line in (
        (["--to", "hf", "--out", str(run)], f"{run} exists already; choose another --out"),
        (["--to", "hf", "--out", str(run / "config.yaml" / "b")], "is no directory"),
        (["--to", "hf", "--out", str(tmp_path / "x"), "--weights", "f16"], "--weights is of --to"),
    ):
        assert export(str(run), *words) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
