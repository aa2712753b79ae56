"""Adapters: they start as nothing, are trained alone, come back bit for bit, and merge."""

import json
import pickle
from pathlib import Path

import pytest
import torch

import espalier as esp
from espalier import experiment as experiments
from espalier import initial
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.errors import ConfigError, UserError
from espalier.fit import fit
from espalier.nn.gpt import GPTConfig, make
from espalier.run import BASE, MODEL, OPTIMIZER, Run
from espalier.train import checkpoint, lora, setup, tuning
from espalier.train.events import Noted
from espalier.train.parallel.ranks import Ranks
from espalier.train.settings import LoraConfig, TrainConfig
from tests.train.tiny import SYMBOLS, corpus, experiment

IDS = torch.arange(8)[None] % 11
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 11}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A run of a few updates, to start from."""
    plan = experiment(corpus(tmp_path / "corpus"), "train.max_iters=4")
    list(fit(plan, tmp_path / "base", device="cpu"))
    return tmp_path / "base"


def tuned(base: Path, *overrides: str) -> experiments.Experiment:
    plan = experiment(base.parent / "corpus", f"train.init={base}", "train.max_iters=8")
    return experiments.apply(plan, overrides)


def model() -> torch.nn.Module:
    return make(GPTConfig(**SHAPE), seed=1).eval()


def test_an_adapter_adds_its_product_scaled():
    """W = 0, D = [1 2], U = [3 5]', alpha 4, rank 1: [10, 1] becomes (10 + 2) * 4 * [3, 5]."""
    from espalier.nn.linear.dense import Dense
    from espalier.nn.state import at

    layer = lora.Lora(Dense(2, 2, 0.02, bias=False), LoraConfig(rank=1, alpha=4.0))
    with torch.no_grad():
        layer.weight.zero_()
        layer.down.copy_(torch.tensor([[1.0, 2.0]]))
        layer.up.copy_(torch.tensor([[3.0], [5.0]]))
    x = torch.tensor([[10.0, 1.0]])
    assert layer(x, at(torch.zeros(1, 1, dtype=torch.long))).tolist() == [[144.0, 240.0]]
    assert layer.merged().weight.tolist() == [[12.0, 24.0], [20.0, 40.0]]


@pytest.mark.parametrize("way", ["trained", "settled"])
def test_a_dendritic_soma_computes_with_its_adapter(way):
    """Its folded weight, which many rows read, is the frozen one's alone."""
    from espalier.nn.ffn.dendritic import FOLD, DendriticConfig
    from espalier.nn.slots import Dims, reset
    from espalier.nn.state import at

    dims = Dims(n_layer=1, n_embd=10, n_head=2, block_size=8, vocab_size=11)
    part = DendriticConfig(lateral="dense").dendritic(24, dims)
    reset(part, 0)
    lora.adapt(part, LoraConfig(rank=2, targets=("soma",)), seed=0)
    torch.nn.init.normal_(part.get_parameter("soma.up"))
    x, now = torch.randn(FOLD, 10), at(torch.zeros(1, FOLD, dtype=torch.long))
    found = part.train()(x, now) if way == "trained" else part.eval().settled()(x, now)
    lora.merge(part)
    torch.testing.assert_close(found, part(x, now), atol=1e-5, rtol=1e-5)


def test_an_adapted_model_starts_as_it_was_and_merges_to_what_it_became():
    plain, adapted = model(), model()
    lora.adapt(adapted, LoraConfig(targets=("*.attention.*", "*.ffn.up")), seed=3)
    adapted.eval()
    assert torch.equal(plain(IDS), adapted(IDS))
    with torch.no_grad():
        for name in lora.adapters(adapted):
            adapted.get_parameter(name).normal_(std=0.3)
    want = adapted(IDS)
    assert not torch.allclose(plain(IDS), want, atol=1e-3)
    lora.merge(adapted)
    assert set(adapted.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(adapted(IDS), want, atol=1e-5, rtol=1e-5)


def test_only_adapters_are_trained_and_saved(base, tmp_path):
    plan = tuned(base, "train.lora={rank: 2}")
    list(fit(plan, tmp_path / "run", device="cpu"))
    run = Run.open(tmp_path / "run")
    held = checkpoint.read(run.latest() / MODEL)
    assert {name.rpartition(".")[2] for name in held} == {"down", "up"}
    moments = checkpoint.read(run.latest() / OPTIMIZER)
    assert {name.rpartition(".")[0] for name in moments} == set(held)
    whole = sum(p.numel() for p in experiments.weights_of(base).parameters())
    # 2 layers, rank 2: qkv takes 2 * (16 + 48), out 2 * (16 + 16)
    assert sum(t.numel() for t in held.values()) == 2 * (2 * 64 + 2 * 32) < whole / 10
    before, after = experiments.weights_of(base), experiments.weights_of(run.path)
    changed = {
        name
        for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {
        f"trunk.stack.blocks.{i}.attention.{part}.weight" for i in (0, 1) for part in ("qkv", "out")
    }
    assert esp.load(run.path, device="cpu").generate("abc", 5)


def test_an_interrupted_run_goes_on_bit_for_bit(base, tmp_path):
    plan = tuned(base, "train.lora={rank: 2, dropout: 0.2}")
    list(fit(plan, tmp_path / "whole", device="cpu"))
    short = experiments.apply(plan, ["train.max_iters=4", "train.lr_decay_iters=8"])
    list(fit(short, tmp_path / "parts", device="cpu"))
    longer = experiments.apply(plan, ["train.lr_decay_iters=8"])
    list(fit(longer, tmp_path / "parts", resume=True, device="cpu"))
    whole, parts = (Run.open(tmp_path / name).latest() for name in ("whole", "parts"))
    for name in (MODEL, OPTIMIZER):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_base_that_has_changed_is_refused(base, tmp_path):
    list(fit(tuned(base, "train.lora={rank: 2}"), tmp_path / "run", device="cpu"))
    file = tmp_path / "run" / BASE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="has changed since the adapters"):
        experiments.weights_of(tmp_path / "run")


class Second(Ranks):
    """The second of two, who hears what the first has said."""

    rank, count = 1, 2

    def __init__(self, *said: str):
        self.said = [*said]

    def tell(self, text: str) -> str:
        return self.said.pop(0)


def test_ranks_agree_on_whether_there_is_a_base(base, tmp_path, monkeypatch):
    """The first found none, and has written it when the second looks."""
    plan = tuned(base, "train.lora={rank: 2}")
    list(fit(plan, tmp_path / "run", device="cpu"))
    run, second = Run.open(tmp_path / "run"), Second("", "its hash")
    net = make(decode(experiments.Experiment, run.config).model, 1)
    tuning.prepare(net, plan.train, 1)
    monkeypatch.setattr(initial, "here", lambda: second)
    assert initial.base(net, plan.train, run, resume=True) == {"base": "its hash"}
    assert second.said == []


def test_a_target_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"'\*\.c_attn' names no dense layer; there are \*\.atte"):
        lora.adapt(model(), LoraConfig(targets=("*.c_attn",)), seed=1)


def test_lora_without_weights_to_adapt_is_refused(base, tmp_path):
    plan = experiment(base.parent / "corpus", "train.lora={}")
    with pytest.raises(ConfigError, match=r"set train\.init"):
        list(fit(plan, tmp_path / "run", device="cpu"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_parameters_are_not_the_optimizers_and_do_not_move(base, tmp_path, optimizer):
    patterns = ["trunk.embed.*", "trunk.stack.blocks.0.*"]
    plan = tuned(base, f"train.freeze={json.dumps(patterns)}", f"train.optimizer={optimizer}")
    list(fit(plan, tmp_path / "run", device="cpu"))
    held = checkpoint.read(Run.open(tmp_path / "run").latest() / OPTIMIZER)
    known = {name.rpartition(".")[0] for name in held}
    before, after = (
        dict(experiments.weights_of(place).named_parameters()) for place in (base, tmp_path / "run")
    )
    frozen = {n for n in before if n.startswith(("trunk.embed.", "trunk.stack.blocks.0."))}
    assert known.isdisjoint(frozen)
    assert {n for n in before if torch.equal(before[n], after[n])} == frozen


def test_a_pattern_that_matches_nothing_is_refused():
    config = TrainConfig(freeze=("trunk.embedding.*",))
    with pytest.raises(ConfigError, match=r"'trunk\.embedding\.\*' names no parameter; they begin"):
        tuning.prepare(model(), config, seed=1)
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        tuning.prepare(model(), TrainConfig(freeze=("*",)), seed=1)


def test_new_tokens_start_as_the_mean_of_the_others():
    theirs = {"trunk.embed.weight": torch.tensor([[1.0, 2.0], [3.0, 6.0]])}
    tiny = make(GPTConfig(n_layer=1, n_head=1, n_embd=2, block_size=4, vocab_size=4), seed=1)
    found = tuning.widened(theirs, tiny)["trunk.embed.weight"]
    assert found.tolist() == [[1.0, 2.0], [3.0, 6.0], [2.0, 4.0], [2.0, 4.0]]
    tiny.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"2 new tokens need rows of trunk\.embed\.weight, which"):
        tuning.widened(theirs, tiny)


def test_what_is_trained_whole_beside_adapters_is_kept_with_them(base, tmp_path):
    """As new tokens need it: their rows are in the checkpoint, and in the model that opens."""
    also = "train.lora={rank: 2, also: [trunk.embed.*]}"
    list(fit(tuned(base, also, "model.vocab_size=13"), tmp_path / "run", device="cpu"))
    run = Run.open(tmp_path / "run")
    held = checkpoint.read(run.latest() / MODEL)
    assert held["trunk.embed.weight"].shape == (13, 16)
    assert "trunk.embed.weight" not in checkpoint.read(run.path / BASE)
    opened = experiments.weights_of(run.path).get_parameter("trunk.embed.weight")
    assert torch.equal(opened, held["trunk.embed.weight"])
    with pytest.raises(ConfigError, match="names no parameter"):
        lora.adapt(model(), LoraConfig(also=("trunk.table",)), seed=1)


def test_a_pretrained_directory_is_tuned_by_one_command(tmp_path):
    transformers = pytest.importorskip("transformers")
    from espalier import cli

    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 8, "vocab_size": 9}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    theirs.save_pretrained(tmp_path / "gpt")
    text = corpus(tmp_path / "corpus")  # 11 symbols: two more than the model has
    words = ["train", "--init", str(tmp_path / "gpt"), f"data.corpus={text}", "train.max_iters=2"]
    assert cli.main([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    plan = esp.load(tmp_path / "run", device="cpu").config
    assert (plan.model.vocab_size, plan.model.block_size) == (11, 8)
    assert plan.train.init == str(tmp_path / "gpt")


def test_nanogpts_init_from_takes_that_models_shape_and_cuts_its_positions(base, tmp_path):
    """As `init_from = 'gpt2'` in a config/*.py, whose other sizes are nanoGPT's defaults."""
    config = tmp_path / "finetune.py"
    config.write_text(f"init_from = '{base}'\nblock_size = 4\n", encoding="utf-8")
    shape = experiments.load(str(config)).model
    assert (shape.n_layer, shape.n_embd, shape.bias, shape.block_size) == (2, 16, True, 4)
    cut = make(shape, seed=1)
    initial.fill_from(cut, str(base))
    whole = experiments.weights_of(base).get_parameter("trunk.position.weight")
    assert torch.equal(cut.get_parameter("trunk.position.weight"), whole[:4])


def test_a_corpus_of_another_tokenizer_is_warned_of(base, tmp_path):
    """Ids 0 to 10 are the symbols of the base's corpus backwards."""
    other = corpus(tmp_path / "other")
    stoi = {symbol: i for i, symbol in enumerate(reversed(SYMBOLS))}
    meta = {"vocab_size": 11, "stoi": stoi, "itos": {i: s for s, i in stoi.items()}}
    (other / "meta.pkl").write_bytes(pickle.dumps(meta))
    plan = experiments.apply(tuned(base), [f"data.corpus={other}"])
    said = [e.message for e in fit(plan, tmp_path / "a", device="cpu") if isinstance(e, Noted)]
    assert any(f"{other} has other tokens than train.init={base}" in text for text in said)
    assert initial.notes(tuned(base).train, Corpus.open(base.parent / "corpus")) == []


def test_adapters_compute_and_learn_what_those_of_peft_do(tmp_path):
    """The same GPT-2, the same adapters, the same gradients."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    from espalier import pretrained

    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 8, "vocab_size": 11}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **drops))
    hf.save_pretrained(tmp_path)
    ours = pretrained.read(tmp_path).build()
    lora.adapt(ours, LoraConfig(rank=3, alpha=6.0, targets=("*.attention.qkv",)), seed=1)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True)
    theirs = peft.get_peft_model(hf, config)
    pairs = []
    for i in (0, 1):
        layer = theirs.base_model.model.transformer.h[i].attn.c_attn
        mine = ours.get_submodule(f"trunk.stack.blocks.{i}.attention.qkv")
        pairs += [(mine.down, layer.lora_A["default"].weight)]
        pairs += [(mine.up, layer.lora_B["default"].weight)]
    with torch.no_grad():
        for mine, other in pairs:
            other.normal_(std=0.3)
            mine.copy_(other)
    logits, wanted = ours(IDS), theirs(IDS).logits
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    for value in (logits, wanted):
        torch.nn.functional.cross_entropy(value[0, :-1], IDS[0, 1:]).backward()
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_the_stepper_refuses_to_hold_a_frozen_parameter():
    frozen = model()
    frozen.requires_grad_(True)
    shape = GPTConfig(**SHAPE)
    stepper = setup.stepper(frozen, shape, TrainConfig(max_iters=1), 1, "cpu")
    frozen.requires_grad_(False)
    with pytest.raises(AssertionError, match="frozen, but trained"):
        tuning.confirm(frozen, stepper.optimizer)


def test_a_frozen_head_is_scored_in_chunks_too(monkeypatch):
    """Large vocabularies are; the loss and the adapters' gradients are those of one piece."""
    from espalier.train import objective

    found = []
    for room in (2**29, 4 * 11 * 4):  # all at once, or 64 tokens at a time
        monkeypatch.setattr(objective, "ROOM", {"cpu": room})
        adapted = model()
        lora.adapt(adapted, LoraConfig(rank=2), seed=3)
        with torch.no_grad():
            for name in lora.adapters(adapted):
                adapted.get_parameter(name).normal_(generator=torch.Generator().manual_seed(5))
        loss = TrainConfig().loss.build()
        scored = objective.Objective(adapted, loss, 11)
        ids = IDS.repeat(16, 1)
        share = scored(objective.MicroBatch(ids, ids.roll(-1, 1)), ids.numel(), ids.numel())
        share.backward()
        grads = [adapted.get_parameter(name).grad for name in sorted(lora.adapters(adapted))]
        found.append((share.detach(), *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
