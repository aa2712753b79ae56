"""Packed weights: the same model within their rounding, and the one that was given untouched."""

import pytest
import torch

from espalier.engine.generate import Generation, Options, generate
from espalier.engine.sampling import Sampling
from espalier.engine.weights import empty_states, fitting, pack
from espalier.native import attention, cached, dropout, gathered, matvec, relu2, rms, rotary
from espalier.native.build import prepare
from espalier.nn.state import KV, leaves
from tests.engine.models import BLOCK, KINDS, VOCAB, build

IDS = torch.randint(VOCAB, (3, BLOCK), generator=torch.Generator().manual_seed(1))
GREEDY = Sampling(temperature=0)
PROMPTS = [[3, 1, 4, 1, 5], [9], [(7 * i) % VOCAB for i in range(BLOCK + 9)], [2, 6]]


@pytest.fixture(params=KINDS)
def model(request):
    return build(request.param)


@pytest.fixture(params=[True, False], ids=["native", "torch"])
def kernels(request, monkeypatch):
    """With our kernels, and with torch in their place."""
    if request.param and not prepare(matvec, cached, attention, gathered):
        pytest.skip("no kernels here")
    if not request.param:
        monkeypatch.setattr("espalier.native.build.library", lambda name: None)
        for kernel in (matvec, cached, attention, gathered, dropout, relu2, rms, rotary):
            monkeypatch.setattr(kernel, "ready", False)


@pytest.mark.parametrize(("weights", "error"), [("float32", 1e-5), ("bf16", 0.02), ("int8", 0.04)])
def test_logits_stay_within_the_rounding_of_the_weights(model, kernels, weights, error):
    want, got = model(IDS), pack(model, weights)(IDS)
    assert (got - want).norm() <= error * want.norm()


def test_the_model_that_was_given_is_untouched(model):
    before, places = model(IDS), {k: v.data_ptr() for k, v in model.named_parameters()}
    pack(model, "int8")
    assert torch.equal(model(IDS), before)
    assert {k: v.data_ptr() for k, v in model.named_parameters()} == places
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_repacked_weights_do_not_follow_the_model(model, weights):
    packed = pack(model, weights)
    before = packed(IDS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(packed(IDS), before)


def test_float32_weights_are_those_of_the_model():
    model = build("gpt2")
    assert pack(model, "float32").trunk.norm.weight is model.trunk.norm.weight


@pytest.mark.parametrize("weights", ["float32", "bf16"])
def test_a_hook_is_put_on_one_of_both(weights):
    model = build("gpt2")
    packed = pack(model, weights)
    before = packed(IDS)
    model.trunk.stack.blocks[0].register_forward_hook(lambda _m, _x, out: out + 1)
    assert torch.equal(packed(IDS), before)


def test_a_packed_table_is_stored_once_for_embedding_and_head():
    packed = pack(build("gpt2"), "bf16")
    assert packed.head.owner[0] is packed.trunk.embed
    assert packed.trunk.embed.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("weights", ["float32", "bf16", "int8"])
def test_cached_generation_equals_full_passes_of_the_same_weights(model, kernels, weights):
    packed = pack(model, weights)
    rows = Generation(packed, BLOCK, PROMPTS, Options(BLOCK, sampling=GREEDY))
    for step in rows:
        for row, logits in zip(step.rows, step.logits, strict=True):
            seen = rows.history[row][:-1][-BLOCK:]
            with torch.no_grad():
                want = packed(torch.tensor([seen]))[0, -1]
            # keys and values are remembered in bf16 beside weights of low precision
            error = 1e-5 if weights == "float32" else 0.02
            assert (logits - want).norm() <= error * want.norm()


@pytest.mark.parametrize("weights", ["float32", "bf16", "int8"])
def test_a_row_does_not_depend_on_the_batch(model, kernels, weights):
    packed = pack(model, weights)
    alone = [generate(packed, BLOCK, [prompt], Options(30))[0] for prompt in PROMPTS]
    assert generate(packed, BLOCK, PROMPTS, Options(30)) == alone


def test_keys_are_kept_in_bf16_beside_weights_of_low_precision():
    for weights, dtype in (("float32", torch.float32), ("int8", torch.bfloat16)):
        states = empty_states(pack(build("gpt2"), weights), 2, BLOCK, torch.device("cpu"))
        assert {s.keys.dtype for s in leaves(states) if isinstance(s, KV)} == {dtype}


def test_small_models_and_nanogpts_tokens_take_float32():
    model = build("gpt2")
    assert fitting(model, Sampling()) == "float32"
    model.large = torch.nn.Parameter(torch.empty(2**24))
    assert fitting(model, Sampling()) == "bf16"
    assert fitting(model, Sampling(rng="nanogpt")) == "float32"
