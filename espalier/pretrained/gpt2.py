"""Hugging Face's GPT-2: a directory with config.json and the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign
from espalier.pretrained.table import TRANSPOSED, Row, both, to_ours, to_theirs

TRUNK, LAYER = "trunk.stack.blocks.{i}", "transformer.h.{i}"
TABLE = [
    Row("trunk.embed.weight", "transformer.wte.weight"),
    Row("trunk.position.weight", "transformer.wpe.weight"),
    *both(f"{TRUNK}.norm_1", f"{LAYER}.ln_1"),
    *both(f"{TRUNK}.attention.qkv", f"{LAYER}.attn.c_attn", TRANSPOSED),
    *both(f"{TRUNK}.attention.out", f"{LAYER}.attn.c_proj", TRANSPOSED),
    *both(f"{TRUNK}.norm_2", f"{LAYER}.ln_2"),
    *both(f"{TRUNK}.ffn.up", f"{LAYER}.mlp.c_fc", TRANSPOSED),
    *both(f"{TRUNK}.ffn.down", f"{LAYER}.mlp.c_proj", TRANSPOSED),
    *both("trunk.norm", "transformer.ln_f"),
    Row("head.weight", "lm_head.weight"),
]
MASKS = (".attn.bias", ".attn.masked_bias")  # buffers of older files
ACTIVATIONS: dict[str, Any] = {
    "gelu_new": {"name": "gelu", "approximate": "tanh"},
    "gelu_pytorch_tanh": {"name": "gelu", "approximate": "tanh"},
    "gelu_fast": {"name": "gelu", "approximate": "tanh"},
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
}
MUST = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def read(folder: Path) -> Foreign:
    """Raises UserError where the configuration is not one of ours or the weights do not fit it."""
    found = files.read_json(folder / "config.json")
    config = read_config(found, folder / "config.json")
    theirs = {
        key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}": tensor
        for key, tensor in files.read_tensors(folder).items()
        if not key.endswith(MASKS)
    }
    if config.head.name == "tied":
        theirs.pop("lm_head.weight", None)
    return Foreign("gpt2", folder, config, to_ours(theirs, TABLE, config, str(folder)))


def read_config(found: Mapping[str, Any], where: Path) -> GPTConfig:
    """GPTConfig of a GPT-2 config.json."""
    for name, value in MUST.items():
        if found.get(name, value) != value:
            raise UserError(f"{where}: {name}={found[name]} is not supported")
    norm = {"name": "layer", "eps": found.get("layer_norm_epsilon", 1e-5)}
    act = activation(found.get("activation_function", "gelu_new"), where)
    try:
        tree = {
            "n_layer": found["n_layer"],
            "n_embd": found["n_embd"],
            "n_head": found["n_head"],
            "block_size": found.get("n_positions") or found["n_ctx"],
            "vocab_size": found["vocab_size"],
            "dropout": found.get("resid_pdrop", 0.0),
            "block": {
                "name": "prenorm",
                "norm": norm,
                "ffn": {"name": "mlp", "width": found.get("n_inner"), "activation": act},
            },
            "head": "tied" if found.get("tie_word_embeddings", True) else "untied",
        }
    except KeyError as error:
        raise UserError(f"{where} lacks {error}") from None
    return decode(GPTConfig, tree, f"{where}: model")


def activation(name: Any, where: Path) -> Any:
    """Our activation of that Hugging Face name."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{where}: no activation '{name}' here; known: {known}")
    return ACTIVATIONS[name]


def to_hf(weights: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The state dict of `GPT2LMHeadModel`, from ours."""
    found = to_theirs(weights, TABLE, config)
    found.setdefault("lm_head.weight", found["transformer.wte.weight"])
    return found
