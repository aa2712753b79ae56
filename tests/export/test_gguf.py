"""A GGUF file reads back through transformers' loader and gguf's own reader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from espalier.data.tokenizer.byte import ByteTokenizer
from espalier.data.tokenizer.hf import HfTokenizer
from espalier.errors import UserError
from espalier.export import gguf_file, native, tokenizers
from espalier.export.gguf_file import Rounding
from espalier.pretrained import fill
from tests.export.models import LLAMA, NEOX, config, shaken

gguf = pytest.importorskip("gguf")

VOCAB = {"vocab_size": 257}
IDS = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))


def write(tree: dict[str, Any], rounding: Rounding, to: Path) -> tuple[Any, list[str]]:
    """A file, and the model whose weights are rounded as there."""
    shape = config(VOCAB | tree)
    found, model = native.find(shape), shaken(shape)
    assert found is not None
    weights = gguf_file.rounded(model.state_dict(), rounding)
    remarks = gguf_file.write(found, weights, rounding, ByteTokenizer(256), to)
    return fill(shape, weights), remarks


@pytest.mark.parametrize("rounding", ["f32", "f16", "q8_0"])
def test_llama_reads_back_through_transformers_by_its_metadata_alone(
    rounding: Rounding, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model, remarks = write(LLAMA, rounding, tmp_path / "m.gguf")
    assert remarks == []
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS).logits, model(IDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_gpt2_reads_back_through_transformers(head: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    act = {"name": "gelu", "approximate": "tanh"}
    tree = {"head": head, "block": {"ffn": {"activation": act}}}
    model, remarks = write(tree, "f32", tmp_path / "m.gguf")
    assert remarks == []
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, n_positions=16
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS).logits, model(IDS), atol=1e-5, rtol=1e-5)


def test_gpt_neox_lies_as_llama_cpp_wants_it(tmp_path: Path) -> None:
    """Queries of all heads, then keys, then values: as ours."""
    model, remarks = write(NEOX, "f32", tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    held = {one.name: one.data for one in reader.tensors}
    qkv = model.trunk.stack.blocks[1].attention.qkv.weight.detach().numpy()
    assert np.array_equal(held["blk.1.attn_qkv.weight"], qkv)
    assert "output.weight" in held
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "gptneox"
    assert fields["gptneox.use_parallel_residual"] is True
    assert fields["gptneox.rope.dimension_count"] == 2  # a quarter of a head of 8
    assert fields["tokenizer.ggml.eos_token_id"] == 256
    assert "exactly" in remarks[0]


BIASED = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_down", "ffn_up")
PLAIN = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate")
# What llama.cpp's loader of each refuses to be without, as of 2026-11.
REQUIRED: dict[str, tuple[dict[str, Any], tuple[str, ...], set[str]]] = {
    "gpt2": ({}, BIASED, {"token_embd.weight", "position_embd.weight", "output_norm.bias"}),
    "neox": (NEOX, BIASED, {"token_embd.weight", "output.weight", "output_norm.bias"}),
    "llama": (LLAMA, (*PLAIN, "ffn_down", "ffn_up"), {"token_embd.weight"}),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_tied_model_has_every_tensor_that_llama_cpp_requires(name: str, tmp_path: Path) -> None:
    tree, parts, required = REQUIRED[name]
    write({**tree, "head": "tied"}, "f32", tmp_path / "m.gguf")
    held = {one.name for one in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    ends = ("weight", "bias") if parts is BIASED else ("weight",)
    required = required | {"output_norm.weight"}
    required |= {f"blk.{i}.{part}.{end}" for i in (0, 1) for part in parts for end in ends}
    assert required - held == set()


def vocabulary(file: Path) -> tuple[list[str], list[Any]]:
    """The tokens of a file, and their types."""
    fields = gguf.GGUFReader(file).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    return fields["tokenizer.ggml.tokens"].contents(), [gguf.TokenType(kind) for kind in types]


def test_ids_that_only_pad_the_vocabulary_are_listed_as_unused(tmp_path: Path) -> None:
    write({"vocab_size": 260}, "f32", tmp_path / "m.gguf")  # the tokenizer has 257
    tokens, types = vocabulary(tmp_path / "m.gguf")
    assert tokens[256:] == ["<|endoftext|>", "<unused_257>", "<unused_258>", "<unused_259>"]
    assert types[255:] == [gguf.TokenType.NORMAL, gguf.TokenType.CONTROL] + 3 * [
        gguf.TokenType.UNUSED
    ]


def spelled(tree: dict[str, Any], size: int, to: Path) -> tuple[list[str], list[Any]]:
    """The vocabulary of a file with the tokenizer of a tokenizer.json."""
    pytest.importorskip("tokenizers")
    shape = config({"vocab_size": size})
    found, weights = native.find(shape), shaken(shape).state_dict()
    assert found is not None
    gguf_file.write(found, weights, "f32", HfTokenizer(json.dumps(tree), "changed"), to)
    return vocabulary(to)


def test_an_added_token_that_is_not_special_is_the_users_own(tmp_path: Path) -> None:
    """Pythia's runs of spaces, which llama.cpp would not read or write as CONTROL."""
    tree = tokenizers.tree(ByteTokenizer(256))
    assert tree is not None
    spaces = tree["added_tokens"][0] | {"id": 257, "content": "    ", "special": False}
    tree["added_tokens"].append(spaces)
    _, types = spelled(tree, 258, tmp_path / "m.gguf")
    assert types[256:] == [gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]


def test_a_vocabulary_may_lack_bytes_that_no_text_has(tmp_path: Path) -> None:
    """GPT-NeoX's, which Pythia has, lacks thirteen."""
    tree = tokenizers.tree(ByteTokenizer(256))
    assert tree is not None
    del tree["model"]["vocab"]["ÿ"]  # 255
    tokens, _ = spelled(tree, 257, tmp_path / "m.gguf")
    assert tokens[255] == "<unused_255>"


def test_halves_become_neighbours() -> None:
    rows = torch.arange(8.0)[:, None]  # two heads of four: halves 0 1 | 2 3
    assert gguf_file.neighbours(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_eight_bits_are_off_by_half_a_step_at_most() -> None:
    weights = {"a.weight": torch.randn(4, 64), "b.weight": torch.randn(4, 30), "c": torch.ones(9)}
    found = gguf_file.rounded(weights, "q8_0")
    step = weights["a.weight"].reshape(4, 2, 32).abs().amax(-1, keepdim=True) / 127
    off = (found["a.weight"] - weights["a.weight"]).reshape(4, 2, 32).abs()
    assert bool((off <= 0.6 * step).all())  # the step itself is kept in 16 bits
    assert torch.equal(found["b.weight"], weights["b.weight"])  # 30 has no whole block of 32
    assert torch.equal(found["c"], weights["c"])


def test_another_activation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="computes gelu, and this model has relu"):
        write({"block": {"ffn": {"activation": "relu"}}}, "f32", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
