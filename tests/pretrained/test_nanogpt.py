"""nanoGPT's ckpt.pt: the layout says what the logits are, and everything else comes along."""

import pytest
import torch
from torch import Tensor

from espalier import pretrained
from espalier.errors import UserError
from tests.pretrained.formulas import logits
from tests.pretrained.layouts import (
    ARGS,
    SETTINGS,
    nanogpt_checkpoint,
    nanogpt_tensors,
    write_nanogpt,
)

IDS = [3, 17, 0, 28, 5, 5, 11, 2, 9, 14, 1, 7]


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_what_the_layout_says(tmp_path, bias):
    torch.save(nanogpt_checkpoint(bias), tmp_path / "ckpt.pt")
    found = pretrained.read(tmp_path / "ckpt.pt")
    with torch.no_grad():
        got = found.build()(torch.tensor([IDS]))[0]
    want = logits(nanogpt_tensors(bias), IDS)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert found.config.head.name == "tied"


def test_what_training_needs_comes_along(tmp_path):
    found = pretrained.read(write_nanogpt(tmp_path / "ckpt.pt"))
    assert (found.step, found.val_loss) == (500, pytest.approx(1.9))
    assert found.settings == SETTINGS
    assert found.moments is not None
    assert found.moments.step == 500
    assert set(found.moments.first) == set(found.moments.second) == set(found.weights)
    # nanoGPT's order: the matrices (two tables, then four a layer), then the vectors
    first, second = found.moments.first, found.moments.second
    block = "trunk.stack.blocks"
    assert first["trunk.embed.weight"].unique().tolist() == [0]
    assert first["trunk.position.weight"].unique().tolist() == [1]
    assert first[f"{block}.0.attention.qkv.weight"].unique().tolist() == [2]
    assert first[f"{block}.1.ffn.down.weight"].unique().tolist() == [9]
    assert first[f"{block}.0.norm_1.weight"].unique().tolist() == [10]
    assert second[f"{block}.0.norm_1.bias"].unique().tolist() == [111]
    assert second["trunk.norm.bias"].unique().tolist() == [127]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, prefix):
    model = {prefix + name: tensor for name, tensor in nanogpt_tensors().items()}
    found = pretrained.read(write_nanogpt(tmp_path / "ckpt.pt", model=model))
    torch.testing.assert_close(
        found.weights["trunk.embed.weight"], nanogpt_tensors()["transformer.wte.weight"]
    )


@pytest.mark.parametrize("absent", ["lm_head.weight", "transformer.wte.weight"])
def test_one_of_two_tied_tables_is_enough(tmp_path, absent):
    model = {k: t for k, t in nanogpt_tensors().items() if k != absent}
    found = pretrained.read(write_nanogpt(tmp_path / "ckpt.pt", model=model, optimizer=None))
    assert found.config.head.name == "tied"
    assert "trunk.embed.weight" in found.weights


def test_a_head_of_its_own_stays_one(tmp_path):
    model = nanogpt_tensors() | {"lm_head.weight": torch.ones(29, 32)}
    found = pretrained.read(write_nanogpt(tmp_path / "ckpt.pt", model=model, optimizer=None))
    assert found.config.head.name == "untied"
    assert found.weights["head.weight"].unique().tolist() == [1]


def test_masks_of_old_versions_are_left_out(tmp_path):
    model = nanogpt_tensors() | {"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    pretrained.read(write_nanogpt(tmp_path / "ckpt.pt", model=model))


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in nanogpt_tensors().items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": without("transformer.h.1.mlp.c_fc.bias")}, "1 tensor missing: .*h.1.mlp.c_fc.b"),
        ({"model": nanogpt_tensors() | {"x": torch.ones(1)}}, "1 tensor not part of the model: x"),
        ({"model_args": ARGS | {"n_embd": 64}}, r"wte.weight is \[29, 32\].* \[29, 64\]"),
        ({"model_args": ARGS | {"n_expert": 4}}, "fork of nanoGPT.*n_expert"),
        ({"model_args": {"n_layer": 2}}, "model_args lacks n_head, n_embd"),
        ({"model_args": None}, "not nanoGPT's: it has no model and model_args"),
        ({"model": {"a": 1}}, "not a dictionary of tensors"),
        (
            {"model": nanogpt_tensors() | {"transformer.ln_f.bias": torch.full((32,), torch.nan)}},
            "ln_f.bias holds NaN",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, message):
    file = write_nanogpt(tmp_path / "ckpt.pt", **changes)
    with pytest.raises(UserError, match=message):
        pretrained.read(file)


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    whole = nanogpt_checkpoint()
    del whole["optimizer"]["state"][3]
    torch.save(whole, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="optimizer knows 27 tensors, the model has 28"):
        pretrained.read(tmp_path / "ckpt.pt")
