"""Weights as whole numbers, and vectors that a circuit can be held against."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from espalier.config import decode
from espalier.errors import UserError
from espalier.export import integers, writing
from espalier.nn.gpt import GPTConfig, make


def model(linear: Any, embed: Any = "learned") -> writing.Model:
    parts = {
        "attention": {"name": "causal", "linear": linear},
        "ffn": {"name": "mlp", "linear": linear},
    }
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}
    tree = {**sizes, "embed": embed, "block": {"name": "prenorm", **parts}}
    config = decode(GPTConfig, tree)
    return writing.Model(make(config, seed=1), config, None)


def test_five_of_three_values_stand_in_a_byte() -> None:
    whole = torch.tensor([[1, -1, 0], [0, 1, 1]])
    bytes_ = integers.packed(whole)
    # (2, 0, 1, 1, 2) and (2, then zeros, which are 1): 2 + 0 + 9 + 27 + 162 and 2 + 3 + 9 + 27 + 81
    assert bytes_.tolist() == [200, 122]
    assert integers.unpacked(bytes_, [2, 3]).equal(whole)


@pytest.mark.parametrize(
    "linear",
    [
        "bitnet",
        "fake_quantised",
        {"name": "fake_quantised", "weights": {"bits": 4, "scheme": "affine", "per": "tensor"}},
        {"name": "fake_quantised", "activations": {"scheme": "affine"}},
        {"name": "fake_quantised", "activations": {"per": "tensor"}},
    ],
)
def test_whole_numbers_and_steps_give_what_the_model_gives(linear: Any, tmp_path: Path) -> None:
    own = model(linear)
    said = writing.whole(own, tmp_path / "out")
    assert said["rounded"] == 8  # qkv, out, up and down of two layers
    found = load_file(tmp_path / "out" / writing.WHOLE)
    tests = load_file(tmp_path / "out" / writing.VECTORS)
    path = "trunk.stack.blocks.1.ffn.up"
    whole, step = found[f"{path}.weight"], found[f"{path}.weight.step"]
    if linear == "bitnet":
        whole = integers.unpacked(whole, [64, 16])
        assert sorted(set(whole.flatten().tolist())) == [-1, 0, 1]
    x, sums = tests[f"{path}.x"].long(), tests[f"{path}.sum"].long()
    assert sums.equal(x @ whole.long().T)
    y = sums.double() * tests[f"{path}.x.step"].double() * step.double().reshape(1, -1)
    y = y + found[f"{path}.bias"].double()
    torch.testing.assert_close(y, tests[f"{path}.y"].double(), rtol=1e-4, atol=1e-5)
    assert tests["logits"].equal(own.net.eval()(tests["ids"]))


def test_bits_decide_how_large_the_numbers_are(tmp_path: Path) -> None:
    rounded = {"name": "fake_quantised", "weights": {"bits": 4}}
    writing.whole(model(rounded, {"name": "fake_quantised", "bits": 12}), tmp_path / "out")
    found = load_file(tmp_path / "out" / writing.WHOLE)
    up, table = found["trunk.stack.blocks.0.ffn.up.weight"], found["trunk.embed.weight"]
    assert (up.dtype, int(up.abs().max())) == (torch.int8, 7)
    assert (table.dtype, int(table.abs().max())) == (torch.int16, 2047)


@pytest.mark.parametrize("linear", ["dense", {"name": "fake_quantised", "level": 0.5}])
def test_a_model_without_whole_numbers_is_refused(linear: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weight of this model is rounded"):
        writing.whole(model(linear), tmp_path / "out")
    assert not (tmp_path / "out").exists()
