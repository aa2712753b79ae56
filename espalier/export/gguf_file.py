"""GGUF files (GPT-2, GPT-NeoX and Llama) through the `gguf` package, as llama.cpp reads them.

The three architectures are those of transformers' classes: matrices lie (out, in) here, GPT-NeoX's
queries, keys and values one after another, Llama's queries and keys with the two halves of a
rotated pair side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espalier.config import encode
from espalier.data.chat import Speaker
from espalier.data.tokenizer.base import Tokenizer
from espalier.data.tokenizer.ranks import byte_aliases
from espalier.data.tokenizer.tiktoken import CL100K, O200K, R50K
from espalier.errors import UserError, need
from espalier.export import template, tokenizers
from espalier.export.native import Native
from espalier.pretrained import gpt2, gpt_neox
from espalier.pretrained.table import Row, rows

Rounding = Literal["f32", "f16", "q8_0"]
BLOCK = 32  # numbers that share a scale in q8_0
ARCHITECTURES = {"gpt2": "gpt2", "gpt_neox": "gptneox", "llama": "llama"}
# What llama.cpp computes in each; a GGUF file cannot say otherwise.
ACTIVATIONS = {"gpt2": "gelu", "gpt_neox": "gelu", "llama": "silu"}
NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that UTF-8 has no use for
Array = NDArray[Any]
# llama.cpp's names of the patterns that split a text before its pairs are joined.
SPLITS = {R50K: "gpt-2", CL100K: "llama-bpe", O200K: "gpt-4o"}


def rounded(weights: Mapping[str, Tensor], rounding: Rounding) -> dict[str, Tensor]:
    """Our tensors as they come back from a file, in fp32.

    Rows of ours are rows of the file, if in another order, and each row is rounded by itself.
    """
    quants = need("gguf", "gguf").quants
    found = {}
    for name, tensor in weights.items():
        kind = kept_as(name, tuple(tensor.shape), rounding)
        stored = quants.quantize(tensor.float().numpy(), kind)
        found[name] = torch.from_numpy(quants.dequantize(stored, kind).copy())
    return found


def kept_as(name: str, shape: tuple[int, ...], rounding: Rounding) -> Any:
    """How a tensor is kept: vectors and positions in fp32, matrices as asked where they divide."""
    kinds = need("gguf", "gguf").GGMLQuantizationType
    whole = len(shape) < 2 or "position" in name or (rounding == "q8_0" and shape[-1] % BLOCK)
    return kinds.F32 if whole else kinds[rounding.upper()]


def write(
    model: Native,
    weights: Mapping[str, Tensor],
    rounding: Rounding,
    speaks: Tokenizer | None,
    to: Path,
    speaker: Speaker | None = None,
) -> list[str]:
    """The file of a model with `weights` (ours); remarks for whoever runs it with llama.cpp.

    `speaker` is of a model that was tuned on conversations.

    Raises UserError for what the format has no words for, RuntimeError where it reads otherwise.
    """
    gguf = need("gguf", "gguf")
    require_activation(model)
    writer = gguf.GGUFWriter(to, ARCHITECTURES[model.family.name])
    remarks = describe(writer, model, rounding)
    remarks += spell(writer, speaks, model.vocab_size, speaker)
    stored = {}
    for name, tensor in tensors(model, weights).items():
        kind = kept_as(name, tensor.shape, rounding)
        stored[name] = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
        writer.add_tensor(name, stored[name], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    require_same(to, stored)
    return remarks


def require_same(file: Path, stored: Mapping[str, Array]) -> None:
    """RuntimeError unless a file gives back these tensors, and has a token for each embedding."""
    reader = need("gguf", "gguf").GGUFReader(file)
    back = {one.name: one.data for one in reader.tensors}
    alike = (back[name].tobytes() == data.tobytes() for name, data in stored.items())
    if back.keys() != stored.keys() or not all(alike):
        raise RuntimeError(f"{file} does not give back what was written")
    listed = reader.get_field("tokenizer.ggml.tokens")
    if listed is not None and len(listed.data) != len(back["token_embd.weight"]):
        raise RuntimeError(f"{file} has not as many tokens as embeddings")


def require_activation(model: Native) -> None:
    """UserError for an activation that llama.cpp's architecture does not compute."""
    family, chosen = model.family.name, encode(model.model)["block"]["ffn"]["activation"]["name"]
    if chosen != ACTIVATIONS[family]:
        raise UserError(
            f"GGUF's {ARCHITECTURES[family]} computes {ACTIVATIONS[family]}, and this model has "
            f"{chosen}: export it --to hf"
        )


def describe(writer: Any, model: Native, rounding: Rounding) -> list[str]:
    """The sizes and options, as metadata."""
    tree, remarks = encode(model.model), []
    block, each = tree["block"], tree["n_embd"] // tree["n_head"]
    writer.add_name("espalier")
    writer.add_block_count(tree["n_layer"])
    writer.add_context_length(tree["block_size"])
    writer.add_embedding_length(tree["n_embd"])
    writer.add_feed_forward_length(block["ffn"]["width"])
    writer.add_head_count(tree["n_head"])
    writer.add_vocab_size(tree["vocab_size"])
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[rounding])  # of llama.h
    if model.family.name == "llama":
        writer.add_head_count_kv(block["attention"]["n_kv_head"])
        writer.add_layer_norm_rms_eps(block["norm"]["eps"])
    else:
        writer.add_layer_norm_eps(block["norm"]["eps"])
        if block["ffn"]["activation"]["approximate"] == "none":
            remarks.append("llama.cpp computes gelu by its tanh approximation, this model exactly")
    if model.family.name == "gpt_neox":
        writer.add_parallel_residual(block["name"] == "parallel")
    if tree["position"]["name"] == "rotary":
        writer.add_rope_dimension_count(int(each * tree["position"]["fraction"]))
        writer.add_rope_freq_base(tree["position"]["theta"])
    return remarks


def spell(
    writer: Any, tokenizer: Tokenizer | None, size: int, speaker: Speaker | None
) -> list[str]:
    """Vocabulary and chat template, where tokens are bytes and pairs; else none, and a remark."""
    tree = None if tokenizer is None else tokenizers.tree(tokenizer)
    if tokenizer is None or tree is None or not _of_bytes(tree):
        writer.add_tokenizer_model("no_vocab")
        lacking = "vocabulary" if speaker is None else "vocabulary and no chat template"
        return [f"the file has no {lacking}: its format knows none of this tokenizer's kind"]
    tokens = _tokens(tree, size)
    writer.add_tokenizer_model("gpt2")
    split = _split(tree)
    writer.add_tokenizer_pre(split or "default")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    pairs = tree["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    if tokenizer.eot is not None:
        writer.add_bos_token_id(tokenizer.eot)
        writer.add_eos_token_id(tokenizer.eot)
    writer.add_add_bos_token(False)
    remarks = [] if speaker is None else converse(writer, speaker)
    if split or not pairs:
        return remarks
    return [*remarks, "llama.cpp does not know how this tokenizer splits text into words"]


def converse(writer: Any, speaker: Speaker) -> list[str]:
    """How conversations are written, and the token that ends an answer."""
    writer.add_chat_template(template.jinja(speaker.template))
    if ends := [i for i in speaker.stop_ids() if i != speaker.tokenizer.eot]:
        writer.add_eot_token_id(ends[-1])
    return template.endings(speaker)


def _tokens(tree: dict[str, Any], size: int) -> list[tuple[str, Any]]:
    """Text and type of each id, those that only pad too: llama.cpp counts ids by this list."""
    kinds = need("gguf", "gguf").TokenType
    found = [(f"<unused_{i}>", kinds.UNUSED) for i in range(size)]
    for token, i in tree["model"]["vocab"].items():
        found[i] = (token, kinds.NORMAL)
    for one in tree["added_tokens"]:
        kind = kinds.CONTROL if one["special"] else kinds.USER_DEFINED
        found[one["id"]] = (one["content"], kind)
    return found


def _of_bytes(tree: dict[str, Any]) -> bool:
    """Is it pairs of GPT-2's stand-ins for bytes? GPT-NeoX's lacks those that are in no text."""
    model = tree["model"]
    needed = {alias for alias, byte in byte_aliases().items() if byte not in NEVER}
    return model.get("type") == "BPE" and needed <= set(model["vocab"])


def _split(tree: dict[str, Any]) -> str | None:
    """llama.cpp's name of how a text is cut into words."""
    steps = tree["pre_tokenizer"] or {}
    for step in steps.get("pretokenizers", [steps]):
        if step.get("type") == "Split":
            return SPLITS.get(step["pattern"].get("Regex", ""))
        if step.get("type") == "ByteLevel" and step.get("use_regex", True):
            return SPLITS[R50K]
    return None


def tensors(model: Native, weights: Mapping[str, Tensor]) -> dict[str, Array]:
    """By GGUF's names, in its layout."""
    gguf, family = need("gguf", "gguf"), model.family.name
    tree = encode(model.model)
    theirs = model.tensors(weights)
    arch = gguf.MODEL_ARCH[ARCHITECTURES[family].upper()]
    names = gguf.get_tensor_name_map(arch, tree["n_layer"])
    ours = {row.theirs: row.ours for row in _joined(family, model)}
    complete = model.complete(weights)
    found: dict[str, Array] = {}
    for key in theirs:
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, f"{key} has no name in GGUF"
        tensor = complete[ours[key]] if key in ours else theirs[key]  # matrices lie as ours do
        if family == "llama" and ("q_proj" in key or "k_proj" in key):
            heads = tree["n_head"] if "q_proj" in key else tree["block"]["attention"]["n_kv_head"]
            tensor = neighbours(tensor, heads)
        found[name] = tensor.contiguous().numpy()
    if family == "gpt_neox":  # of the three the one whose head llama.cpp requires, tied or not
        found.setdefault("output.weight", found["token_embd.weight"])
    return found


def neighbours(tensor: Tensor, heads: int) -> Tensor:
    """Rows of each head's two halves in turn: 0, w/2, 1, w/2 + 1, …"""
    apart = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return apart.transpose(1, 2).reshape(tensor.shape)


def _joined(family: str, model: Native) -> list[Row]:
    """The rows of the families whose published layout is not GGUF's."""
    if family == "gpt2":
        return rows(gpt2.TABLE, model.model)
    if family == "gpt_neox":
        return rows(gpt_neox.table(model.model.n_head), model.model)
    return []
