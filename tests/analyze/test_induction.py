"""Induction heads appear in a model of two layers that is trained here, and are found."""

import pytest
import torch
from torch.nn import functional as F

from espalier.analyze import heads, patching, prompts
from espalier.config import decode
from espalier.nn.gpt import GPT, GPTConfig, make

VOCAB, TIME, STEPS = 32, 32, 400
SIZES = {
    "n_layer": 2, "n_embd": 64, "n_head": 2, "block_size": TIME, "vocab_size": VOCAB,
    "bias": False, "position": "rotary", "init": {"std": 0.1},
    "block": {"name": "prenorm", "norm": "rms", "ffn": {"name": "mlp", "width": 64}},
}  # fmt: skip


def train(model: GPT) -> None:
    """On random tokens over and over, 8 to 16 of them: only what came before tells what follows."""
    chance = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.98))
    for _ in range(STEPS):
        period = int(torch.randint(8, 17, (), generator=chance))
        ids = heads.repeated(VOCAB, period, 32, int(torch.randint(2**31, (), generator=chance)))
        ids = ids.repeat(1, 2)[:, : TIME + 1]
        logits = model(ids[:, :-1])[:, period:]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, period + 1 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            return


def best(model: GPT, kind: str) -> dict[str, float]:
    """The highest score of each layer's heads."""
    ids = heads.repeated(VOCAB, 12, 16, seed=1)
    found: dict[str, float] = {}
    for row in heads.scores(heads.patterns(model, ids), 12):
        layer = row["head"].split(".")[3]
        found[layer] = max(found.get(layer, 0.0), row[kind])
    return found


@pytest.mark.long
def test_induction_heads_appear_and_are_found() -> None:
    model = make(decode(GPTConfig, SIZES), seed=1).eval()
    assert best(model, "induction")["1"] < 0.2
    train(model)
    assert best(model, "previous")["0"] > 0.3  # what an induction head is made from
    assert best(model, "induction")["1"] > 0.6
    assert best(model, "induction")["0"] < 0.2
    pairs = prompts.random(VOCAB, TIME, seed=3)
    rows = patching.heads(patching.Bench(model, pairs))
    second = sum(row["recovered"] for row in rows if ".1.attention" in row["head"])
    assert second > 0.5  # the answer passes through the second layer's heads
