"""Hugging Face's Llama: RMS norm, rotary positions, a gated mlp, grouped keys and values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign
from espalier.pretrained.gpt2 import activation
from espalier.pretrained.table import Row, both, to_ours, to_theirs

TRUNK, LAYER = "trunk.stack.blocks.{i}", "model.layers.{i}"
JOINED = "self_attn.qkv"  # queries, keys and values one below the other, as ours lie
TABLE = [
    Row("trunk.embed.weight", "model.embed_tokens.weight"),
    Row(f"{TRUNK}.norm_1.weight", f"{LAYER}.input_layernorm.weight"),
    *both(f"{TRUNK}.attention.qkv", f"{LAYER}.{JOINED}"),
    *both(f"{TRUNK}.attention.out", f"{LAYER}.self_attn.o_proj"),
    Row(f"{TRUNK}.norm_2.weight", f"{LAYER}.post_attention_layernorm.weight"),
    *both(f"{TRUNK}.ffn.gate", f"{LAYER}.mlp.gate_proj"),
    *both(f"{TRUNK}.ffn.up", f"{LAYER}.mlp.up_proj"),
    *both(f"{TRUNK}.ffn.down", f"{LAYER}.mlp.down_proj"),
    Row("trunk.norm.weight", "model.norm.weight"),
    Row("head.weight", "lm_head.weight"),
]


def read(folder: Path) -> Foreign:
    """Raises UserError where the configuration is not one of ours or the weights do not fit it."""
    config = read_config(files.read_json(folder / "config.json"), folder / "config.json")
    theirs = {
        key: tensor
        for key, tensor in files.read_tensors(folder).items()
        if not key.endswith(".rotary_emb.inv_freq")  # a buffer of older files
    }
    if config.head.name == "tied":
        theirs.pop("lm_head.weight", None)
    return Foreign("llama", folder, config, to_ours(join(theirs), TABLE, config, str(folder)))


def join(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of each layer as one; what lacks a member stays as it is."""
    found = dict(theirs)
    for key in theirs:
        if ".self_attn.q_proj." not in key:
            continue
        trio = [key.replace("q_proj", f"{one}_proj") for one in "qkv"]
        if all(name in theirs for name in trio):
            joined = key.replace("self_attn.q_proj", JOINED)
            found[joined] = torch.cat([found.pop(name) for name in trio])
    return found


def read_config(found: Mapping[str, Any], where: Path) -> GPTConfig:
    """GPTConfig of a Llama config.json."""
    theta = rope_theta(found, where)
    try:
        width, heads = found["hidden_size"], found["num_attention_heads"]
        if (each := found.get("head_dim") or width // heads) * heads != width:
            raise UserError(
                f"{where}: head_dim={each} times {heads} heads is not hidden_size={width}, "
                "which is not supported"
            )
        tree = {
            "n_layer": found["num_hidden_layers"],
            "n_embd": width,
            "n_head": heads,
            "block_size": found["max_position_embeddings"],
            "vocab_size": found["vocab_size"],
            "dropout": found.get("attention_dropout", 0.0),
            "bias": bool(found.get("mlp_bias", False)),
            "position": {"name": "rotary", "theta": theta},
            "block": {
                "name": "prenorm",
                "norm": {"name": "rms", "eps": found.get("rms_norm_eps", 1e-6)},
                "attention": {
                    "name": "causal",
                    "n_kv_head": found.get("num_key_value_heads") or heads,
                    "bias": bool(found.get("attention_bias", False)),
                },
                "ffn": {
                    "name": "glu",
                    "width": found["intermediate_size"],
                    "activation": activation(found.get("hidden_act", "silu"), where),
                },
            },
            "head": "tied" if found.get("tie_word_embeddings", False) else "untied",
        }
    except KeyError as error:
        raise UserError(f"{where} lacks {error}") from None
    return decode(GPTConfig, tree, f"{where}: model")


def rope_theta(found: Mapping[str, Any], where: Path) -> float:
    """The base of rotary positions, which stand at one place or another; scaled ones are not read.

    `transformers` from 5 on writes rope_parameters, earlier ones rope_theta and rope_scaling.
    """
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if (scaling := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise UserError(f"{where}: rope scaling '{scaling}' is not supported")
    return float(rope.get("rope_theta", found.get("rope_theta", 10000.0)))


def to_hf(weights: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The state dict of `LlamaForCausalLM`, from ours."""
    found = split(to_theirs(weights, TABLE, config), config)
    found.setdefault("lm_head.weight", found["model.embed_tokens.weight"])
    return found


def split(joined: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """`join` undone: queries first, then as many keys as values."""
    found = {}
    for key, tensor in joined.items():
        if f".{JOINED}." not in key:
            found[key] = tensor
            continue
        kept = (len(tensor) - config.n_embd) // 2
        for one, part in zip("qkv", torch.split(tensor, [config.n_embd, kept, kept]), strict=True):
            found[key.replace(JOINED, f"self_attn.{one}_proj")] = part.clone()
    return found
