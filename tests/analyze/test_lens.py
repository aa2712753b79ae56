"""Lenses read the stream; attribution adds up to the logit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.analyze import attribution, lens, stream
from espalier.analyze.prompts import Prompts
from espalier.analyze.views import Asked, Seen
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.nn.gpt import GPT, GPTConfig, make
from tests.analyze import planted
from tests.analyze.test_heads import IDS, KINDS, SIZES
from tests.train import tiny

WIRED: dict[str, dict[str, Any]] = KINDS | {
    "rms": {"block": {"name": "prenorm", "norm": "rms"}},
    "dyt": {"block": {"name": "prenorm", "norm": "dyt"}},
    "parallel": {"block": "parallel"},
    "peri": {"block": "peri"},
    "postnorm": {"block": "postnorm"},
    "unet": {"stack": "unet"},
    "mixed": {"stack": "mixed"},
    "shared": {"n_layer": 4, "stack": {"name": "shared"}},
    "softcap": {"head": {"name": "tied", "softcap": 2.0}},
    "linear attention": {"block": {"name": "prenorm", "attention": "linear"}},
}


def build(kind: str) -> GPT:
    return make(decode(GPTConfig, {**SIZES, **WIRED[kind]}), seed=3).eval().double()


@torch.no_grad()
def shaken(kind: str) -> GPT:
    """Weights as large as trained ones, so that no summand is nothing."""
    model = build(kind)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", WIRED)
def test_summands_add_up_to_the_logit(kind: str) -> None:
    model = shaken(kind)
    answer, wrong = torch.tensor([3, 5]), torch.tensor([4, 9])
    found = attribution.split(model, IDS)
    parts = attribution.attribute(model, found, Prompts(IDS, IDS, answer, wrong))
    total = torch.stack(list(parts.values())).sum(0)
    logits = found.stream.logits
    wanted = torch.stack([logits[[0, 1], :, answer], logits[[0, 1], :, wrong]], -1)
    if kind == "softcap":
        wanted = 2 * torch.atanh(wanted / 2)
    torch.testing.assert_close(total, wanted, rtol=1e-9, atol=1e-9)
    assert float(parts[attribution.ROUNDING].abs().max()) < 1e-9


def test_layers_are_told_by_their_parts_and_heads() -> None:
    def named(kind: str) -> set[str]:
        found = attribution.split(build(kind), IDS).parts
        return {name.replace("trunk.stack.blocks.", "") for name in found} - {"embed", "rounding"}

    heads = {f"{n}.attention:{h}" for n in (0, 1) for h in (0, 1)}
    rest = {f"{n}.attention rest" for n in (0, 1)} | {f"{n}.ffn" for n in (0, 1)}
    assert named("gpt") == heads | rest
    assert named("cortical") == {f"{n}.neurons.{i}" for n in (0, 1) for i in (0, 1)}
    assert named("peri") == {f"{n}.peri_{i}" for n in (0, 1) for i in (1, 2)}
    assert named("postnorm") == {"0", "1"}  # a norm of the sum: no part adds to the stream
    assert "before 0#2" in named("feedback")  # the stream begins anew
    assert "after trunk.stack" in named("mixed")


def test_the_planted_head_makes_the_logit() -> None:
    model = planted.model()
    ids = torch.tensor([[0, 1, 2, 3, 0]])
    pairs = Prompts(ids, ids, torch.tensor([1]), torch.tensor([2]))
    parts = attribution.attribute(model, attribution.split(model, ids), pairs)
    by_name = {name: (one[0, -1, 0] - one[0, -1, 1]).item() for name, one in parts.items()}
    assert by_name.pop(planted.INDUCTION) == pytest.approx(10, abs=1e-4)
    assert max(map(abs, by_name.values())) < 1e-4


@pytest.mark.parametrize("kind", WIRED)
@torch.no_grad()
def test_the_last_lens_is_the_model(kind: str) -> None:
    model = build(kind)
    found = stream.read(model, IDS)
    assert torch.equal(found.logits, model(IDS))
    last = next(reversed(found.points.values()))
    assert torch.equal(stream.unembed(model, last, found.now), found.logits)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(tiny.corpus(tmp_path_factory.mktemp("corpus"), val=601))


def looking(model: GPT, corpus: Corpus, **asked: Any) -> Seen:
    import numpy as np

    def windows(split: str) -> Any:
        tokens = corpus.val if split == "val" else corpus.train
        return tokens, np.arange(0, len(tokens) - 9, 8)

    return Seen(model, 8, 11, windows, lambda: corpus.tokenizer, asked=Asked(**asked))


def test_a_tuned_lens_undoes_a_rotation(text: Corpus) -> None:
    # the only layer turns the stream round: the plain lens reads nonsense before it, and an affine
    # map can undo it
    model = make(decode(GPTConfig, {**SIZES, "n_layer": 1}), seed=3).eval()
    with torch.no_grad():
        model.trunk.embed.weight.mul_(50)
        ffn = model.trunk.stack.blocks[0].ffn
        turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
        ffn.up.weight[:16] = turn * 20
        ffn.down.weight[:, :16] = 5 * torch.eye(16)
    seen = looking(model, text)
    plain = lens.figures(seen, {})
    tuned = lens.figures(seen, lens.tune(seen))
    place = "trunk.stack.blocks.0"
    assert list(plain) == ["embed", place]
    assert plain[place]["kl"] == pytest.approx(0, abs=1e-6)
    assert plain[place]["agreement"] == 1
    assert tuned["embed"]["kl"] < 0.3 * plain["embed"]["kl"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_the_view_tells(text: Corpus, tmp_path: Path) -> None:
    model = make(decode(GPTConfig, SIZES), seed=3).eval()
    found = lens.look(looking(model, text, text="abcab"))
    assert found["rows"][0]["place"] == "embed"
    assert found["told"]["text"] == list("abcab")
    assert len(found["told"]["places"][0]["tokens"]) == 5
