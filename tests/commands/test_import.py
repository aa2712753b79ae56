"""`espalier import`: a run that speaks and trains on as if it had never been elsewhere."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import espalier as esp
from espalier import cli, experiment, pretrained
from espalier.data.corpus import Corpus
from espalier.data.loader import batch
from espalier.data.order import Order
from espalier.fit import fit
from espalier.run import Run
from tests.pretrained.layouts import (
    SETTINGS,
    nanogpt_checkpoint,
    nanogpt_tensors,
    write_meta,
    write_nanogpt,
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A nanoGPT directory of 29 characters."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_meta(folder)
    tokens = np.random.default_rng(0).integers(0, 29, 6000).astype(np.uint16)
    tokens[:5000].tofile(folder / "train.bin")
    tokens[5000:].tofile(folder / "val.bin")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A ckpt.pt whose moments are plausible."""
    whole = nanogpt_checkpoint()
    generator = torch.Generator().manual_seed(1)
    for entry in whole["optimizer"]["state"].values():
        entry["exp_avg"] = 1e-3 * torch.randn(entry["exp_avg"].shape, generator=generator)
        entry["exp_avg_sq"] = 1e-6 * torch.rand(entry["exp_avg_sq"].shape, generator=generator)
    torch.save(whole, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_a_run_is_made_that_opens_and_speaks(source, corpus, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["import", str(source), "--corpus", str(corpus), "--out", str(out)]) == 0
    assert f"training goes on: espalier train --resume {out}" in capsys.readouterr().out
    mine = esp.load(str(out), device="cpu")
    theirs = esp.load(str(source), tokenizer=str(corpus), device="cpu")
    ids = torch.arange(16)[None]
    assert torch.equal(mine.model(ids), theirs.model(ids))
    assert mine.generate("abc", 20) == theirs.generate("abc", 20)
    same = esp.load(str(out / "checkpoints" / "step-00000500"), device="cpu")
    assert torch.equal(same.model(ids), mine.model(ids))


def test_settings_come_along(source, corpus, tmp_path):
    cli.main(["import", str(source), "--corpus", str(corpus), "--out", str(tmp_path / "run")])
    plan = esp.load(str(tmp_path / "run"), device="cpu").config
    assert plan.train.learning_rate == SETTINGS["learning_rate"]
    assert (plan.train.warmup_iters, plan.train.lr_decay_iters) == (100, 2000)
    assert (plan.train.optimizer.beta2, plan.train.optimizer.decay) == (
        0.99,
        ("matrix", "embedding"),
    )
    assert (plan.data.batch_size, plan.train.gradient_accumulation_steps) == (12, 1)
    assert plan.data.corpus == str(corpus)


def nanogpt_update(
    source: Path, rows: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One update as nanoGPT makes it at iteration 500: torch's AdamW with its own saved state."""
    whole = torch.load(source, weights_only=True)
    model = pretrained.read(source).build()
    named = dict(model.named_parameters())  # in nanoGPT's order
    matrices = [p for p in named.values() if p.ndim >= 2]
    vectors = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for parameter, entry in zip(
        [*matrices, *vectors], whole["optimizer"]["state"].values(), strict=True
    ):
        optimizer.state[parameter] = entry
    share = (500 - 100) / (2000 - 100)
    rate = 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * (1e-3 - 1e-4)
    for group in optimizer.param_groups:
        group["lr"] = rate
    inputs, targets = rows
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {name: p.detach() for name, p in named.items()}


def test_training_goes_on_as_nanogpt_would(source, corpus, tmp_path):
    out = tmp_path / "run"
    cli.main(["import", str(source), "--corpus", str(corpus), "--out", str(out)])
    plan = experiment.apply(
        esp.load(str(out), device="cpu").config,
        ["train.max_iters=501", "evaluate.eval_iters=1"],
    )
    tokens = Corpus.open(corpus).train
    order = Order(len(tokens), 16, plan.seed)
    want = nanogpt_update(source, batch(tokens, order, 500 * 12, 12, 16))
    list(fit(plan, out, resume=True, device="cpu"))
    got = esp.load(str(out), device="cpu")
    assert got.run is not None
    assert got.run.steps()[-1] == 501
    for name, tensor in got.model.named_parameters():
        torch.testing.assert_close(tensor.detach(), want[name], atol=1e-5, rtol=1e-5)


def test_without_a_corpus_the_tokenizer_must_be_found(source, corpus, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["import", str(source), "--out", str(out)]) == 2
    assert "no tokenizer came with it" in capsys.readouterr().err
    assert not out.exists()
    meta = str(corpus / "meta.pkl")
    assert cli.main(["import", str(source), "--out", str(out), "--tokenizer", meta, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumable"] is False
    assert isinstance(esp.load(str(out), device="cpu").generate("abc", 5), str)


def test_a_place_that_is_taken_is_left_alone(source, corpus, tmp_path, capsys):
    words = ["import", str(source), "--corpus", str(corpus), "--out", str(corpus)]
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(file.name for file in corpus.iterdir()) == ["meta.pkl", "train.bin", "val.bin"]


def test_a_corpus_of_another_vocabulary_is_refused(source, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    write_meta(other, "".join(chr(97 + i) for i in range(40)))
    for split in ("train", "val"):
        np.arange(40, dtype=np.uint16).tofile(other / f"{split}.bin")
    words = ["import", str(source), "--corpus", str(other), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "the tokenizer has 40 ids, the model 29" in capsys.readouterr().err


def test_compiled_weights_of_a_fork_are_refused_in_one_line(tmp_path, capsys):
    model = nanogpt_tensors() | {"transformer.h.0.mlp.gate.weight": torch.ones(2)}
    file = write_nanogpt(tmp_path / "ckpt.pt", model=model)
    assert cli.main(["import", str(file), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "1 tensor not part of the model: transformer.h.0.mlp.gate.weight" in error
    assert error.count("\n") == 1


def test_a_hugging_face_folder_becomes_a_run(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 16, "vocab_size": 300}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    theirs.save_pretrained(tmp_path / "hf")
    out = tmp_path / "run"
    words = ["import", str(tmp_path / "hf"), "--out", str(out), "--tokenizer", "byte"]
    assert cli.main(words) == 0
    assert f"espalier train --init {out} data.corpus=DIR" in capsys.readouterr().out
    assert Run.open(out).steps() == [0]
    ids = torch.arange(16)[None]
    with torch.no_grad():
        mine, want = esp.load(str(out), device="cpu").model(ids), theirs.eval()(ids).logits
    torch.testing.assert_close(mine, want, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_beside_the_weights_is_used(shared_data, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        vocab_size=50304,
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    words = (shared_data / "gpt-neox-20b-tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(words)
    loaded = esp.load(str(tmp_path), device="cpu")
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("Once upon")) == "Once upon"
    assert isinstance(loaded.generate("Once upon", 5), str)
