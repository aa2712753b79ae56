"""What a checkpoint holds, and that it comes back as it was."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.run import MODEL
from espalier.train import checkpoint


def model(seed: int = 1) -> GPT:
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4, "vocab_size": 5}
    return make(decode(GPTConfig, shape), seed)


def test_weights_come_back_and_a_tied_table_is_written_once(tmp_path: Path) -> None:
    one, other = model(1), model(2)
    checkpoint.writer(one)(tmp_path)
    assert set(load_file(tmp_path / MODEL)) == {name for name, _ in one.named_parameters()}
    checkpoint.load_model(other, tmp_path)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        checkpoint.writer(model())(tmp_path / name)
    assert (tmp_path / "a" / MODEL).read_bytes() == (tmp_path / "b" / MODEL).read_bytes()


def test_a_layer_used_twice_is_written_once(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    twice = nn.ModuleList([layer, layer])
    checkpoint.writer(twice)(tmp_path)
    assert set(load_file(tmp_path / MODEL)) == {"0.weight", "0.bias"}
    checkpoint.load_model(twice, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trunk.norm.weight", "trunk.norm.wieght", "Did you mean 'trunk.norm.wieght'?"),
        (
            "trunk.norm.weight",
            "module.trunk.norm.weight",
            "'module.trunk.norm.weight' has no place",
        ),
        ("trunk.norm.weight", None, "it has no 'trunk.norm.weight'."),
    ],
)
def test_names_are_strict_and_hinted_at(
    tmp_path: Path, old: str, new: str | None, said: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors(model()).items()}
    moved = tensors.pop(old)
    if new:
        tensors[new] = moved
    save_file(tensors, tmp_path / MODEL)
    with pytest.raises(UserError, match="does not fit") as caught:
        checkpoint.load_model(model(), tmp_path)
    assert said in str(caught.value)


def test_another_shape_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors(model()).items()}
    tensors["trunk.norm.weight"] = torch.ones(9)
    save_file(tensors, tmp_path / MODEL)
    mine = model(2)
    before = [p.clone() for p in mine.parameters()]
    with pytest.raises(UserError, match=r"'trunk.norm.weight' has shape \[9\], \[8\] expected"):
        checkpoint.load_model(mine, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no safetensors file"),
        (b"<html>not found</html>", "is no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_what_is_no_weights_is_said_to_be_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / MODEL).write_bytes(content)
    with pytest.raises(UserError, match=said):
        checkpoint.read(tmp_path / MODEL)


def test_every_random_generator_goes_on_where_it_was() -> None:
    def draw() -> tuple[float, float, float, float]:
        normal = np.random.standard_normal()
        return torch.rand(()).item(), normal, random.random(), random.gauss()

    draw()
    kept = checkpoint.randomness()
    first = draw()
    draw()
    checkpoint.restore(kept)
    assert draw() == first


def test_a_weight_that_is_not_finite_is_noticed() -> None:
    net = model()
    assert checkpoint.finite(checkpoint.tensors(net).values())
    with torch.no_grad():
        net.trunk.embed.weight[1, 2] = float("nan")
    assert not checkpoint.finite(checkpoint.tensors(net).values())
