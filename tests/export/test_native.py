"""Which models are GPT-2, GPT-NeoX and Llama, and that theirs come back bit by bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from espalier import pretrained
from espalier.export import native
from espalier.export.writing import Model
from tests.export.models import IDS, LLAMA, NEOX, config, shaken

GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "vocab_size": 29}
COMMON = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "max_position_embeddings": 16,
    "vocab_size": 29,
}


def turning(fraction: float) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": fraction}
    return {"rope_parameters": rope}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied": ("GPT2", GPT2 | {"tie_word_embeddings": False, "n_inner": 40}),
    "gpt2-relu": ("GPT2", GPT2 | {"activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    "neox": ("GPTNeoX", COMMON),
    "neox-half": ("GPTNeoX", COMMON | turning(0.5)),
    "neox-whole-sequential": ("GPTNeoX", COMMON | turning(1.0) | {"use_parallel_residual": False}),
    "neox-tied-sequential": (
        "GPTNeoX",
        COMMON | {"use_parallel_residual": False, "tie_word_embeddings": True},
    ),
    "llama": ("Llama", COMMON),
    "llama-grouped-tied": (
        "Llama",
        COMMON | {"num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_imported_goes_back_bit_by_bit(case: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    family, fields = CASES[case]
    made = getattr(transformers, f"{family}Config")(**fields)
    head = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    torch.manual_seed(0)
    theirs = getattr(transformers, head)(made).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    theirs.save_pretrained(tmp_path)
    want = load_file(tmp_path / "model.safetensors")
    read = pretrained.read(tmp_path)
    found = native.find(read.config)
    assert found is not None
    assert found.family.architecture == head
    back = {known(name): tensor for name, tensor in found.tensors(read.weights).items()}
    assert back.keys() == {known(name) for name in want}
    assert all(torch.equal(back[known(name)], tensor) for name, tensor in want.items())
    again = type(made)(**found.config)
    told = {key: getattr(made, key) for key in found.config if hasattr(made, key)}
    told |= {"n_inner": made.n_inner or 4 * made.n_embd} if family == "GPT2" else {}
    assert {key: getattr(again, key) for key in told} == told


def known(name: str) -> str:
    """transformers writes GPT-NeoX's head under one name and reads both."""
    return "lm_head.weight" if name == "embed_out.weight" else name


def find(tree: dict[str, Any]) -> str | None:
    found = native.find(config(tree))
    return None if found is None else found.family.name


def test_the_built_configuration_decides() -> None:
    assert find({}) == "gpt2"
    assert find(NEOX) == "gpt_neox"
    assert find(LLAMA) == "llama"
    assert find({"position": "rotary"}) == "gpt_neox"
    assert find({"position": "rotary", "block": {"norm": "rms"}}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"position": "none"},
        {"block": {"norm": "rms"}},
        {"block": {"attention": {"window": 8}}},
        {"block": {"attention": {"softcap": 20.0}}},
        {"block": {"attention": {"qk_norm": "rms"}}},
        {"block": {"attention": {"n_kv_head": 2}}},
        {"block": {"attention": {"score": "sigmoid"}}},
        {"block": {"ffn": {"activation": "oscillating"}}},
        {"block": {"ffn": {"x_offset": 0.5}}},
        {"block": "postnorm"},
        {"head": {"name": "tied", "softcap": 30.0}},
        {"stack": "shared"},
        {"layers": [{"block": {"norm": "rms"}}, {}]},
        {"norm": "rms"},
    ],
)
def test_one_other_part_or_option_makes_it_another_model(change: dict[str, Any]) -> None:
    assert find(change) is None


def test_the_same_said_otherwise_is_the_same() -> None:
    assert find({"layers": [{"repeat": 2}]}) == "gpt2"
    assert find({"norm": "layer"}) == "gpt2"
    assert find({"block": {"attention": {"n_kv_head": 4}, "ffn": {"width": 128}}}) == "gpt2"
    assert find({"init": {"std": 0.1}, "embed": {"name": "learned", "start": "cube"}}) == "gpt2"


@pytest.mark.parametrize(("family", "tree"), [("gpt2", {}), ("gpt_neox", NEOX), ("llama", LLAMA)])
def test_dropout_makes_it_no_other_model(family: str, tree: dict[str, Any]) -> None:
    assert find({"dropout": 0.1, **tree}) == family


@pytest.mark.parametrize("tree", [{"bias": False}, {"bias": False, **NEOX}])
def test_missing_biases_are_zeros(tree: dict[str, Any]) -> None:
    shape = config(tree)
    found, model = native.find(shape), shaken(shape)
    assert found is not None
    whole = pretrained.fill(found.model, found.complete(Model(model, shape, None).weights))
    with torch.no_grad():
        torch.testing.assert_close(whole(IDS), model(IDS))
