"""What people have in place of a checkpoint, each named in one line, and nothing ever run."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from espalier import pretrained
from espalier.errors import UserError
from tests.pretrained.layouts import write_nanogpt


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        pretrained.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_there(tmp_path):
    assert message(tmp_path / "ckpt.pt") == f"nothing at {tmp_path / 'ckpt.pt'}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer of 57"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
        (b"PK\x03\x04 not really", "no torch checkpoint, or is cut short"),
        (b"hello", "no torch checkpoint, or is cut short"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, words):
    file = tmp_path / "ckpt.pt"
    file.write_bytes(content)
    assert words in message(file)


def test_a_file_cut_short(tmp_path):
    file = write_nanogpt(tmp_path / "ckpt.pt")
    file.write_bytes(file.read_bytes()[:-1000])
    assert "cut short" in message(file)


def test_objects_are_refused_and_not_run(tmp_path):
    torch.save({"model": torch.nn.Linear(1, 1), "model_args": {}}, tmp_path / "ckpt.pt")
    assert "torch.nn.modules.linear.Linear" in message(tmp_path / "ckpt.pt")
    torch.save({"model": {}, "model_args": Bomb()}, tmp_path / "bomb.pt")
    assert "is refused: it holds" in message(tmp_path / "bomb.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Bomb()))
    assert "old.pt" in message(tmp_path / "old.pt")


def test_other_files_and_folders(tmp_path):
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    assert "notes.txt is no checkpoint" in message(tmp_path / "notes.txt")
    (tmp_path / "x.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    assert "give the directory" in message(tmp_path / "x.safetensors")
    assert "holds no model" in message(tmp_path)


def test_hugging_face_folders_that_cannot_be_read(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "bert"}', encoding="utf-8")
    known = "gpt2, gpt_neox, llama, nanochat are read"
    assert f"holds a bert model; of Hugging Face's, {known}" in message(tmp_path)
    config.write_text("{", encoding="utf-8")
    assert "is not JSON" in message(tmp_path)
    config.write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert "lacks 'n_layer'" in message(tmp_path)
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 8, "vocab_size": 9}
    whole = {"model_type": "gpt2", **sizes}
    config.write_text(json.dumps(whole), encoding="utf-8")
    assert "has no weights" in message(tmp_path)
    index = {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "lacks shards that model.safetensors.index.json names" in message(tmp_path)
    config.write_text(json.dumps(whole | {"activation_function": "mish"}), encoding="utf-8")
    assert "no activation 'mish' here" in message(tmp_path)
    config.write_text(
        json.dumps(whole | {"scale_attn_by_inverse_layer_idx": True}), encoding="utf-8"
    )
    assert "scale_attn_by_inverse_layer_idx=True is not supported" in message(tmp_path)
