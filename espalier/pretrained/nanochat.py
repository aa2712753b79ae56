"""nanochat's first GPT: its own checkpoints, and Hugging Face directories of the same model.

The number of heads is read, never guessed: other numbers fit the same shapes and give nonsense.
Three things are worked into the weights, all exact but for the last bits:

* its embedding is normalised before the first layer: so is our table, row by row;
* it turns queries and keys the other way: the halves of each head change places;
* it normalises them after turning, we before: a rotation keeps the norm.

Its own program rounds cosines and sines to bfloat16, `transformers` does not, nor do we.
"""

import re
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
from espalier.pretrained.llama import JOINED, join, rope_theta
from espalier.pretrained.table import Row, to_ours

TRUNK, LAYER = "trunk.stack.blocks.{i}", "model.layers.{i}"
TABLE = [
    Row("trunk.embed.weight", "model.embed_tokens.weight"),
    Row(f"{TRUNK}.attention.qkv.weight", f"{LAYER}.{JOINED}.weight"),
    Row(f"{TRUNK}.attention.out.weight", f"{LAYER}.self_attn.o_proj.weight"),
    Row(f"{TRUNK}.ffn.up.weight", f"{LAYER}.mlp.fc1.weight"),
    Row(f"{TRUNK}.ffn.down.weight", f"{LAYER}.mlp.fc2.weight"),
    Row("head.weight", "lm_head.weight"),
]
# nanochat's own names -> Hugging Face's
RENAMED = (
    ("transformer.wte.", "model.embed_tokens."),
    ("transformer.h.", "model.layers."),
    (".attn.c_q.", ".self_attn.q_proj."),
    (".attn.c_k.", ".self_attn.k_proj."),
    (".attn.c_v.", ".self_attn.v_proj."),
    (".attn.c_proj.", ".self_attn.o_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
# What its later versions added, by the names that show it; no part here computes it as they do.
LATER = {
    "value_embeds": "gated value embeddings",
    "ve_gate": "gated value embeddings",
    "resid_lambdas": "weights of the residual stream",
    "x0_lambdas": "weights of the first embedding",
    "smear": "smeared embeddings",
    "backout": "a middle layer taken out again",
}
SIZES = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_embd")
SEQUENCE = 2048  # tokens, where no file says: no weight depends on it
EPS = torch.finfo(torch.float32).eps  # what torch's rms_norm takes where it is told nothing


def meta(place: Path) -> Path | None:
    """The newest meta_XXXXXX.json of a directory, or the one beside a model_XXXXXX.pt."""
    if place.is_file():
        found = place.with_name(place.name.replace("model_", "meta_")).with_suffix(".json")
        return found if re.fullmatch(r"model_\d+\.pt", place.name) and found.is_file() else None
    beside = [file for file in place.glob("meta_*.json") if _weights(file).is_file()]
    return max(beside, key=lambda file: file.name) if beside else None


def read(place: Path, n_head: int | None = None) -> Foreign:
    """A Hugging Face directory, or nanochat's own. UserError for a later version, or no heads.

    `n_head` says how many there are where the files do not.
    """
    published = place / "config.json"
    if published.is_file():
        found = files.read_json(published)
        heads = with_heads(found.get("num_attention_heads"), n_head, published)
        config = _published({**found, "num_attention_heads": heads}, published)
        return interpret(files.read_tensors(place), config, place)
    file = meta(place)
    assert file is not None
    held = files.read_torch(_weights(file))
    if not isinstance(held, Mapping) or not all(isinstance(t, Tensor) for t in held.values()):
        raise UserError(f"{_weights(file)} is not a dictionary of tensors")
    found = files.read_json(file)
    step = found.get("step", 0)
    theirs = {renamed(name): tensor for name, tensor in held.items()}
    config = _own(found, theirs, file, n_head)
    return interpret(theirs, config, _weights(file), step if isinstance(step, int) else 0)


def with_heads(told: Any, given: int | None, where: Path) -> int:
    """The number of heads; UserError where nobody says it, or two say it differently."""
    if isinstance(told, int):
        if given not in {None, told}:
            raise UserError(f"{where} says {told} heads, --n-head {given}")
        return told
    if given is None:
        raise UserError(
            f"{where} does not say how many heads there are, and any number fits the weights: give "
            "--n-head. nanochat's heads are 128 wide, so that its d20 has 10; nano-deepseek-ocr "
            "reads it with 16"
        )
    return given


def _weights(file: Path) -> Path:
    return file.with_name(file.name.replace("meta_", "model_")).with_suffix(".pt")


def renamed(name: str) -> str:
    name = name.removeprefix("_orig_mod.")
    for theirs, published in RENAMED:
        name = name.replace(theirs, published)
    return name


def interpret(
    theirs: Mapping[str, Tensor], config: GPTConfig, where: Path, step: int = 0
) -> Foreign:
    missing = {what for name in theirs for sign, what in LATER.items() if sign in name}
    if missing:
        raise UserError(
            f"{where} is of a later nanochat: no part here computes {', '.join(sorted(missing))}"
        )
    ours = to_ours(join(theirs), TABLE, config, str(where))
    eps = config.block.norm.eps  # type: ignore[attr-defined]
    _exact(ours, config, eps)
    return Foreign("nanochat", where, config, ours, step)


def _exact(ours: dict[str, Tensor], config: GPTConfig, eps: float) -> None:
    """Work into the weights what no part of ours does (see the head of this file)."""
    table = ours["trunk.embed.weight"]
    ours["trunk.embed.weight"] = torch.nn.functional.rms_norm(table, table.shape[1:], eps=eps)
    width = config.n_embd // config.n_head
    for name, tensor in ours.items():
        if name.endswith("attention.qkv.weight"):
            kv = (len(tensor) - config.n_embd) // 2
            turned, values = tensor[: config.n_embd + kv], tensor[config.n_embd + kv :]
            halves = turned.view(-1, 2, width // 2, config.n_embd).flip(1)
            ours[name] = torch.cat([halves.reshape(turned.shape), values])


def _published(found: Mapping[str, Any], where: Path) -> GPTConfig:
    """GPTConfig of a NanoChat config.json."""
    if found.get("attention_bias", False) or found.get("tie_word_embeddings", False):
        raise UserError(f"{where}: biases in attention and tied embeddings are not supported")
    try:
        return _config(
            {
                "n_layer": found["num_hidden_layers"],
                "n_embd": found["hidden_size"],
                "n_head": found["num_attention_heads"],
                "block_size": found["max_position_embeddings"],
                "vocab_size": found["vocab_size"],
                "position": {"name": "rotary", "theta": rope_theta(found, where)},
            },
            {
                "kv": found.get("num_key_value_heads"),
                "width": found["intermediate_size"],
                "activation": activation(found.get("hidden_act", "relu2"), where),
                "eps": found.get("rms_norm_eps", 1e-6),
                "softcap": found.get("final_logit_softcapping", 15.0),
            },
            where,
        )
    except KeyError as error:
        raise UserError(f"{where} lacks {error}") from None


def _own(
    found: Mapping[str, Any], theirs: Mapping[str, Tensor], where: Path, n_head: int | None
) -> GPTConfig:
    """GPTConfig of nanochat's own meta_XXXXXX.json; what it leaves out, of its tensors."""
    given = found.get("model_config")
    given = given if isinstance(given, Mapping) else {}
    heads = with_heads(given.get("n_head"), n_head, where)
    return shaped({**shapes(theirs, where), **given, "n_head": heads}, where)


def shapes(theirs: Mapping[str, Tensor], where: Path) -> dict[str, int]:
    """What tensors tell of a model of nanochat's, all but its heads."""
    table, layer = "model.embed_tokens.weight", re.compile(r"model\.layers\.(\d+)\.")
    numbers = [int(match[1]) for name in theirs if (match := layer.match(name))]
    if table not in theirs or not numbers:
        raise UserError(f"{where}: its tensors are not those of nanochat's GPT")
    vocab_size, width = theirs[table].shape
    sizes = {"vocab_size": vocab_size, "n_embd": width, "n_layer": max(numbers) + 1}
    return {**sizes, "sequence_len": SEQUENCE}


def shaped(given: Mapping[str, Any], where: Path) -> GPTConfig:
    """GPTConfig of the numbers that nanochat's own files hold, in its words."""
    missing = [name for name in SIZES if not isinstance(given.get(name), int)]
    if missing:
        raise UserError(
            f"{where}: model_config lacks {', '.join(missing)}; nothing of it can be told from the "
            "weights for sure"
        )
    return _config(
        {
            "n_layer": given["n_layer"],
            "n_embd": given["n_embd"],
            "n_head": given["n_head"],
            "block_size": given["sequence_len"],
            "vocab_size": given["vocab_size"],
            "position": "rotary",
        },
        {"kv": given.get("n_kv_head"), "width": None, "activation": "relu2", "eps": EPS},
        where,
    )


def _config(tree: Mapping[str, Any], block: Mapping[str, Any], where: Path) -> GPTConfig:
    plain = {"name": "rms", "eps": block["eps"], "gain": False}
    ffn = {"name": "mlp", "width": block["width"], "activation": block["activation"]}
    attention = {"name": "causal", "n_kv_head": block["kv"], "qk_norm": plain}
    whole = {
        **tree,
        "bias": False,
        "block": {"name": "prenorm", "norm": plain, "attention": attention, "ffn": ffn},
        "head": {"name": "untied", "softcap": block.get("softcap", 15.0)},
    }
    return decode(GPTConfig, whole, f"{where}: model")
