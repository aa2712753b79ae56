"""Models that transformers has a class for: GPT-2, GPT-NeoX and Llama, whatever their recipe.

A model is of a family where that family's own configuration, written from its sizes and options and
read back as an import would, gives the model again. What is said by the way training starts (init)
does not count, a missing bias is a bias of zero where the family always has one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.config import decode, encode, refine
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig, sketch
from espalier.pretrained import gpt2, gpt_neox, llama

Tree = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One architecture of transformers."""

    name: str
    """model_type"""
    architecture: str
    write: Callable[[Tree], Tree]
    """its config.json from a model's tree; KeyError or UserError where it has no words for it"""
    read: Callable[[Mapping[str, Any], Path], GPTConfig]
    tensors: Callable[[Mapping[str, Tensor], GPTConfig], dict[str, Tensor]]
    biased: bool
    """are there always biases?"""


@dataclass(frozen=True)
class Native:
    """A model as one of a family."""

    family: Family
    model: GPTConfig
    """the same function in the family's terms"""
    config: Tree
    """its config.json"""

    @property
    def vocab_size(self) -> int:
        assert self.model.vocab_size is not None
        return self.model.vocab_size

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the family's class, without copies of tied tensors."""
        found = self.family.tensors(self.complete(weights), self.model)
        if self.model.head.name == "tied":
            found.pop("lm_head.weight", None)
            found.pop("embed_out.weight", None)
        return found

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With zeros for the biases that the family has and the model has not."""
        want = sketch(self.model).state_dict()
        zeros = {name: torch.zeros(t.shape) for name, t in want.items() if name not in weights}
        return {**weights, **zeros}


def find(config: GPTConfig) -> Native | None:
    """The family that a model is of, if any."""
    for family in FAMILIES:
        plain = normal(config, biased=family.biased)
        try:
            written = family.write(encode(plain))
            back = normal(family.read(written, Path("config.json")), biased=False)
        except (KeyError, UserError):
            continue
        if encode(back) == encode(plain):
            return Native(family, plain, written)
    return None


def normal(config: GPTConfig, *, biased: bool) -> GPTConfig:
    """The same function written one way, with what is left out filled in."""
    blocks = [encode(block) for block in config.blocks()]
    alike = all(block == blocks[0] for block in blocks)
    tree = encode(config) | {"init": {}, "block": _filled(blocks[0], config)}
    if alike:
        tree |= {"layers": None, "cycle": None}
    if "start" in tree["embed"]:
        tree["embed"] = {"name": tree["embed"]["name"]}
    last = config.norm or config.blocks()[-1].last_norm()
    if tree["norm"] is None and last is not None:
        tree["norm"] = encode(last)
    found = decode(GPTConfig, tree)
    return refine(found, {"bias": True, "block": _with_bias(tree["block"])}) if biased else found


def _filled(block: Tree, config: GPTConfig) -> Tree:
    """A block with the numbers that follow from the model's."""
    found = {key: dict(value) if isinstance(value, dict) else value for key, value in block.items()}
    attention, ffn = found.get("attention", {}), found.get("ffn", {})
    if attention.get("name") == "causal":
        attention["n_head"] = attention["n_head"] or config.n_head
        attention["n_kv_head"] = attention["n_kv_head"] or attention["n_head"]
        if attention["bias"] is None:
            attention["bias"] = config.bias
    if ffn.get("width", 0) is None:
        d = config.n_embd
        ffn["width"] = {"mlp": 4 * d, "glu": -(-d // 3) * 8}.get(ffn["name"])
    return found


def _with_bias(block: Tree) -> Tree:
    attention = block.get("attention", {})
    return {"attention": {"bias": True}} if attention.get("name") == "causal" else {}


def hf_activation(tree: Tree) -> str:
    """Hugging Face's name of an activation; KeyError where it has none."""
    for name, ours in gpt2.ACTIVATIONS.items():
        fields = {"name": ours} if isinstance(ours, str) else ours
        given = {"approximate": "none"} | fields if fields["name"] == "gelu" else fields
        if tree == given:
            return name
    raise KeyError(tree["name"])


def _gpt2(tree: Tree) -> Tree:
    block, drop = tree["block"], tree["dropout"]
    return {
        "n_layer": tree["n_layer"],
        "n_embd": tree["n_embd"],
        "n_head": tree["n_head"],
        "n_positions": tree["block_size"],
        "vocab_size": tree["vocab_size"],
        "n_inner": block["ffn"]["width"],
        "activation_function": hf_activation(block["ffn"]["activation"]),
        "layer_norm_epsilon": block["norm"]["eps"],
        "resid_pdrop": drop,
        "embd_pdrop": drop,
        "attn_pdrop": drop,
        "tie_word_embeddings": tree["head"]["name"] == "tied",
    }


def _common(tree: Tree) -> Tree:
    block = tree["block"]
    return {
        "num_hidden_layers": tree["n_layer"],
        "hidden_size": tree["n_embd"],
        "num_attention_heads": tree["n_head"],
        "max_position_embeddings": tree["block_size"],
        "vocab_size": tree["vocab_size"],
        "intermediate_size": block["ffn"]["width"],
        "hidden_act": hf_activation(block["ffn"]["activation"]),
        "tie_word_embeddings": tree["head"]["name"] == "tied",
    }


def _gpt_neox(tree: Tree) -> Tree:
    position, drop = tree["position"], tree["dropout"]
    rope = {
        "rope_type": "default",
        "rope_theta": position["theta"],
        "partial_rotary_factor": position["fraction"],
    }
    return _common(tree) | {
        "layer_norm_eps": tree["block"]["norm"]["eps"],
        "use_parallel_residual": tree["block"]["name"] == "parallel",
        "attention_bias": True,
        "hidden_dropout": drop,
        "attention_dropout": drop,
        "rope_parameters": rope,
        "rotary_pct": position["fraction"],  # of transformers before 5
        "rotary_emb_base": position["theta"],
    }


def _llama(tree: Tree) -> Tree:
    attention = tree["block"]["attention"]
    theta = tree["position"]["theta"]
    return _common(tree) | {
        "num_key_value_heads": attention["n_kv_head"],
        "rms_norm_eps": tree["block"]["norm"]["eps"],
        "attention_bias": attention["bias"],
        "mlp_bias": tree["bias"],
        "head_dim": tree["n_embd"] // tree["n_head"],
        "attention_dropout": tree["dropout"],
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_theta": theta,
    }


FAMILIES = (
    Family("gpt2", "GPT2LMHeadModel", _gpt2, gpt2.read_config, gpt2.to_hf, biased=True),
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        _gpt_neox,
        gpt_neox.read_config,
        gpt_neox.to_hf,
        biased=True,
    ),
    Family("llama", "LlamaForCausalLM", _llama, llama.read_config, llama.to_hf, biased=False),
)
