"""Recording hears every call and changes no bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.analyze import activations, record
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.slots import Part
from espalier.nn.state import Pass
from espalier.train.checkpoint import tensors
from tests.train import tiny

SIZES = {"n_layer": 3, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}
KINDS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "wiggle": {"block": {"name": "prenorm", "ffn": "wiggle"}},
    "cortical": {"block": {"name": "cortical", "neurons": [4, 2]}},
    "feedback": {"stack": {"name": "feedback", "passes": 2}},
}


def build(kind: str) -> GPT:
    return make(decode(GPTConfig, {**SIZES, **KINDS[kind]}), seed=3).eval()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(tiny.corpus(tmp_path_factory.mktemp("corpus")))


IDS = torch.arange(16).view(2, 8) % 11


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_recording_changes_no_bit(kind: str) -> None:
    model = build(kind)
    before, weights = model(IDS), {n: t.clone() for n, t in tensors(model).items()}
    heard = dict.fromkeys(record.places(model), lambda path, inputs, output: None)
    with record.listening(model, heard):
        during = model(IDS)
    assert torch.equal(during, before)
    assert torch.equal(model(IDS), before)
    assert all(torch.equal(t, weights[n]) for n, t in tensors(model).items())


@torch.no_grad()
def test_a_second_pass_is_heard_by_itself() -> None:
    model, heard = build("feedback"), []
    place = "trunk.stack.blocks.0"
    with record.listening(model, {place: lambda path, inputs, output: heard.append(path)}):
        model(IDS)
        model(IDS)
    assert heard == [place, f"{place}#2"] * 2
    model(IDS)
    assert len(heard) == 4


def test_places_by_pattern() -> None:
    found = record.places(build("gpt"), "*.0.ffn*")
    assert found == [
        f"trunk.stack.blocks.0.ffn{name}" for name in ("", ".up", ".activation", ".down")
    ]


def test_figures_are_those_of_the_outputs(text: Corpus) -> None:
    model, starts = build("gpt"), [0, 8, 16]
    (found,) = activations.outputs(model, text.val, starts, 8, "trunk.norm").values()
    ids = torch.stack([torch.from_numpy(text.val.gather([s], 8)[0]) for s in starts])
    with torch.no_grad():
        hidden = model.trunk(ids, record.at(ids)).double()
    assert found["count"] == hidden.numel()
    assert found["mean"] == pytest.approx(hidden.mean().item(), abs=1e-6)
    assert found["deviation"] == pytest.approx(hidden.std(unbiased=False).item(), rel=1e-6)
    assert found["max"] == pytest.approx(hidden.max().item(), rel=1e-6)


class Both(Part):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class First(Part):
    def __init__(self, norm: Part) -> None:
        super().__init__()
        self.norm, self.both = norm, Both()

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        return self.both(self.norm(x, now))[0]


def test_an_output_of_several_tensors_is_heard_one_by_one(text: Corpus) -> None:
    model = build("gpt")
    model.trunk.norm = First(model.trunk.norm)
    found = activations.outputs(model, text.val, [0], 8, "*norm.both")
    assert [name.rpartition("both")[2] for name in found] == [".0", ".1"]


def test_entropy_and_sums_of_even_attention() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    scores = torch.zeros(1, 2, 4, 4)
    one = activations.Scores()
    one.add(scores, mask, scores.masked_fill(~mask, float("-inf")).softmax(-1))
    found = one.figures()
    # row t looks at t + 1 keys: ln(t + 1) nats, (0 + ln 2 + ln 3 + ln 4) / 4
    assert found["entropy"] == pytest.approx(torch.tensor([1.0, 2, 3, 4]).log().mean().item())
    assert found["entropy_by_head"] == pytest.approx([found["entropy"]] * 2)
    assert found["row_sum"] == pytest.approx(1)
    assert found["largest"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["before"]["count"] == 2 * 10  # only where a query may look
    assert found["after"]["mean"] == pytest.approx(4 / 10)


def test_scores_are_heard_on_the_reference_path(text: Corpus) -> None:
    model = build("gpt")
    parts = [block.attention for block in model.trunk.stack.blocks]
    assert all(part.fused for part in parts)
    found = activations.scores(model, text.val, [0, 8], 8)
    assert list(found) == [f"trunk.stack.blocks.{i}.attention.score" for i in range(3)]
    assert all(one["row_sum"] == pytest.approx(1, abs=1e-5) for one in found.values())
    assert all(part.fused for part in parts)


def test_differences_are_mine_minus_theirs() -> None:
    base = dict.fromkeys(activations.COMPARED, 1.0)
    mine, theirs = {"a": {**base, "mean": 3.0}, "b": base}, {"a": base}
    found = activations.differences(mine, theirs)
    assert list(found) == ["a"]
    assert (found["a"]["mean"], found["a"]["max"]) == (2.0, 0.0)
