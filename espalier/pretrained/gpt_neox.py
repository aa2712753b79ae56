"""Hugging Face's GPT-NeoX, which Pythia is: a directory with config.json and the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign
from espalier.pretrained.gpt2 import activation
from espalier.pretrained.table import Row, Turn, both, to_ours, to_theirs

TRUNK, LAYER = "trunk.stack.blocks.{i}", "gpt_neox.layers.{i}"
MASKS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")  # buffers


def table(n_head: int) -> list[Row]:
    """Their queries, keys and values lie head by head (head, 3, width); ours one after another."""

    def swap(t: Tensor, first: int, second: int) -> Tensor:
        apart = t.reshape(first, second, -1, *t.shape[1:])
        return apart.transpose(0, 1).reshape(t.shape)

    turn = Turn(lambda t: swap(t, n_head, 3), lambda t: swap(t, 3, n_head))
    qkv = both(f"{TRUNK}.attention.qkv", f"{LAYER}.attention.query_key_value")
    return [
        Row("trunk.embed.weight", "gpt_neox.embed_in.weight"),
        *both(f"{TRUNK}.norm_1", f"{LAYER}.input_layernorm"),
        *(row._replace(turn=turn) for row in qkv),
        *both(f"{TRUNK}.attention.out", f"{LAYER}.attention.dense"),
        *both(f"{TRUNK}.norm_2", f"{LAYER}.post_attention_layernorm"),
        *both(f"{TRUNK}.ffn.up", f"{LAYER}.mlp.dense_h_to_4h"),
        *both(f"{TRUNK}.ffn.down", f"{LAYER}.mlp.dense_4h_to_h"),
        *both("trunk.norm", "gpt_neox.final_layer_norm"),
        Row("head.weight", "embed_out.weight"),
    ]


def read(folder: Path) -> Foreign:
    """Raises UserError where the configuration is not one of ours or the weights do not fit it."""
    config = read_config(files.read_json(folder / "config.json"), folder / "config.json")
    theirs = {
        _published(key): tensor
        for key, tensor in files.read_tensors(folder).items()
        if not key.endswith(MASKS)
    }
    if config.head.name == "tied":
        theirs.pop("embed_out.weight", None)
    return Foreign(
        "gpt_neox", folder, config, to_ours(theirs, table(config.n_head), config, str(folder))
    )


def _published(key: str) -> str:
    """The hub's names: recent transformers calls the head lm_head, a bare trunk has no prefix."""
    if key == "lm_head.weight":
        return "embed_out.weight"
    return key if key.startswith(("gpt_neox.", "embed_out.")) else f"gpt_neox.{key}"


def read_config(found: Mapping[str, Any], where: Path) -> GPTConfig:
    """GPTConfig of a GPT-NeoX config.json."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if (scaling := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise UserError(f"{where}: rope scaling '{scaling}' is not supported")
    if not found.get("attention_bias", True):
        raise UserError(f"{where}: attention_bias=false is not supported")
    fraction = rope.get("partial_rotary_factor", found.get("rotary_pct", 0.25))
    act = activation(found.get("hidden_act", "gelu"), where)
    try:
        tree = {
            "n_layer": found["num_hidden_layers"],
            "n_embd": found["hidden_size"],
            "n_head": found["num_attention_heads"],
            "block_size": found["max_position_embeddings"],
            "vocab_size": found["vocab_size"],
            "dropout": found.get("hidden_dropout", 0.0),
            "position": {
                "name": "rotary",
                "fraction": fraction,
                "theta": rope.get("rope_theta", found.get("rotary_emb_base", 10000)),
            },
            "block": {
                "name": "parallel" if found.get("use_parallel_residual", True) else "prenorm",
                "norm": {"name": "layer", "eps": found.get("layer_norm_eps", 1e-5)},
                "ffn": {"name": "mlp", "width": found["intermediate_size"], "activation": act},
            },
            "head": "tied" if found.get("tie_word_embeddings", False) else "untied",
        }
    except KeyError as error:
        raise UserError(f"{where} lacks {error}") from None
    return decode(GPTConfig, tree, f"{where}: model")


def to_hf(weights: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The state dict of `GPTNeoXForCausalLM`, from ours."""
    found = to_theirs(weights, table(config.n_head), config)
    found.setdefault("embed_out.weight", found["gpt_neox.embed_in.weight"])
    return found
