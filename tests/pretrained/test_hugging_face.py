"""The same weights give the same logits and the same text as transformers, both ways."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from espalier import pretrained
from espalier.engine.generate import Options, generate
from espalier.engine.sampling import Sampling
from espalier.pretrained import gpt2, gpt_neox

transformers = pytest.importorskip("transformers")

BLOCK, VOCAB = 32, 53
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": BLOCK, "vocab_size": VOCAB}
NEOX = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "max_position_embeddings": BLOCK,
    "vocab_size": VOCAB,
}
MODELS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
    "gpt2-odd": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **GPT2,
            n_inner=40,
            activation_function="relu",
            layer_norm_epsilon=1e-3,
            tie_word_embeddings=False,
        )
    ),
    "pythia": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**NEOX)),
    "neox-sequential": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            **NEOX,
            use_parallel_residual=False,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 1.0,
            },
        )
    ),
}


@pytest.fixture(params=MODELS)
def theirs(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


IDS = torch.randint(VOCAB, (3, BLOCK), generator=torch.Generator().manual_seed(1))


def test_logits_equal_transformers(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    model = pretrained.read(tmp_path).build()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


def test_greedy_text_equals_transformers(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    model = pretrained.read(tmp_path).build()
    prompt = IDS[:1, :5]
    want = theirs.generate(
        prompt, max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    options = Options(20, sampling=Sampling(temperature=0))
    assert generate(model, BLOCK, prompt.tolist(), options) == want[:, 5:].tolist()


def test_weights_go_back_to_transformers(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    found = pretrained.read(tmp_path)
    back = (gpt2 if found.kind == "gpt2" else gpt_neox).to_hf(found.weights, found.config)
    other = tmp_path / "back"
    other.mkdir()
    (other / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    save_file(
        {k: t.clone() for k, t in back.items()}, other / "model.safetensors", {"format": "pt"}
    )
    again = type(theirs).from_pretrained(other).eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, theirs(IDS).logits)


def test_torch_files_bare_trunks_and_masks_are_read(tmp_path):
    """The oldest GPT-2 files: no prefix, the causal mask among the weights, a torch file."""
    torch.manual_seed(0)
    theirs = MODELS["gpt2"]().eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {k.removeprefix("transformer."): t for k, t in theirs.state_dict().items()}
    state |= {
        "h.0.attn.bias": torch.ones(1, 1, BLOCK, BLOCK),
        "lm_head.weight": state["wte.weight"],
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    with torch.no_grad():
        got = pretrained.read(tmp_path).build()(IDS)
        torch.testing.assert_close(got, theirs(IDS).logits, atol=1e-5, rtol=1e-5)


def test_shards_are_put_together(tmp_path: Path):
    torch.manual_seed(0)
    theirs = MODELS["gpt2"]().eval()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        got = pretrained.read(tmp_path).build()(IDS)
        torch.testing.assert_close(got, theirs(IDS).logits, atol=1e-5, rtol=1e-5)
