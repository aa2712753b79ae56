"""Llama and nanochat directories: the same logits as transformers, heads read and never guessed."""

import json
from pathlib import Path

import pytest
import torch

from espalier import pretrained
from espalier.errors import UserError

transformers = pytest.importorskip("transformers")

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
    "max_position_embeddings": 32,
    "vocab_size": 53,
}
BIASED = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)),
    "llama-tied": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, **BIASED, **THETA)
    ),
    "nanochat": lambda: transformers.NanoChatForCausalLM(transformers.NanoChatConfig(**SHAPE)),
}
IDS = torch.randint(53, (3, 32), generator=torch.Generator().manual_seed(1))


def made(name: str) -> "torch.nn.Module":
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name, tmp_path):
    theirs = made(name)
    theirs.save_pretrained(tmp_path)
    model = pretrained.read(tmp_path).build()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope scaling 'llama3'"),
        ({"head_dim": 16}, "head_dim=16 times 4 heads is not hidden_size=32"),
        ({"hidden_act": "xielu"}, "no activation 'xielu' here"),
    ],
)
def test_what_no_part_computes_is_refused(change, why, tmp_path):
    made("llama").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=why):
        pretrained.read(tmp_path)


def own(folder: Path, **changes: object) -> "torch.nn.Module":
    """nanochat's own files of a model that transformers has too."""
    config = transformers.NanoChatConfig(
        **{**SHAPE, "intermediate_size": 128}, rms_norm_eps=torch.finfo(torch.float32).eps
    )
    torch.manual_seed(0)
    theirs = transformers.NanoChatForCausalLM(config).eval()
    names = {
        "model.embed_tokens.": "transformer.wte.",
        "model.layers.": "transformer.h.",
        "self_attn.q_proj": "attn.c_q",
        "self_attn.k_proj": "attn.c_k",
        "self_attn.v_proj": "attn.c_v",
        "self_attn.o_proj": "attn.c_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    state = {}
    for published, tensor in theirs.state_dict().items():
        own_name = published
        for part, mine in names.items():
            own_name = own_name.replace(part, mine)
        state[f"_orig_mod.{own_name}"] = tensor
    torch.save(state | changes.pop("extra", {}), folder / "model_000650.pt")
    sizes = {"sequence_len": 32, "vocab_size": 53, "n_layer": 2, "n_head": 4, "n_embd": 32}
    given = {k: v for k, v in ({**sizes, "n_kv_head": 2} | changes).items() if v is not None}
    (folder / "meta_000650.json").write_text(json.dumps({"step": 650, "model_config": given}))
    return theirs


@pytest.mark.parametrize("name", ["", "model_000650.pt"])
def test_nanochats_own_checkpoint_is_read(name, tmp_path):
    theirs = own(tmp_path)
    found = pretrained.read(tmp_path / name if name else tmp_path)
    assert (found.kind, found.step, found.config.n_head) == ("nanochat", 650, 4)
    with torch.no_grad():
        torch.testing.assert_close(found.build()(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


def test_a_head_count_is_never_guessed(tmp_path):
    """2 heads fit the shapes as well as 4 do, and give other logits."""
    own(tmp_path, n_head=None)
    with pytest.raises(UserError, match=r"does not say how many heads .* give --n-head"):
        pretrained.read(tmp_path)
    assert pretrained.read(tmp_path, n_head=4).config.n_head == 4


def test_a_head_count_that_the_files_deny_is_refused(tmp_path):
    own(tmp_path)
    with pytest.raises(UserError, match="says 4 heads, --n-head 2"):
        pretrained.read(tmp_path, n_head=2)


def test_a_meta_that_names_no_sizes_leaves_them_to_the_tensors(tmp_path):
    theirs = own(tmp_path, n_head=None, n_layer=None, n_embd=None, vocab_size=None)
    found = pretrained.read(tmp_path, n_head=4)
    with torch.no_grad():
        torch.testing.assert_close(found.build()(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


def test_a_later_nanochat_is_refused_by_what_it_adds(tmp_path):
    own(tmp_path, extra={"resid_lambdas": torch.ones(2), "value_embeds.1.weight": torch.ones(3)})
    with pytest.raises(UserError, match="gated value embeddings, weights of the residual stream"):
        pretrained.read(tmp_path)
