"""Top activations: the largest of each neuron, and where they were met."""

from dataclasses import replace

import pytest
import torch

from espalier.analyze import record, sight, top
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.nn.gpt import GPT, GPTConfig, make
from tests.analyze.test_heads import SIZES
from tests.analyze.test_lens import looking
from tests.analyze.test_probe import model
from tests.train import tiny


def test_the_largest_of_pieces_are_the_largest_of_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 10, 4)
    found = top.Top(3)
    for piece, tokens in zip(x.split(2), torch.arange(60).split(20), strict=True):
        found.add(piece.flatten(0, 1), tokens)
    values, places = x.flatten(0, 1).topk(3, 0)
    assert torch.equal(found.values, values)
    assert torch.equal(found.places, places)
    peaks = values[0] / x.flatten(0, 1).square().mean(0).sqrt()
    torch.testing.assert_close(found.peaks().float(), peaks)


def test_branches_stand_side_by_side() -> None:
    x = torch.arange(24.0).view(2, 3, 2, 2)  # branches, batch, time, width
    found = top.by_token(x, rows=3)
    assert found.shape == (3, 2, 4)
    assert found[0, 0].tolist() == [0, 1, 12, 13]


def test_a_planted_neuron_is_told_with_its_context(tmp_path) -> None:
    text = Corpus.open(tiny.corpus(tmp_path))
    made = model()
    ffn = made.trunk.stack.blocks[0].ffn
    with torch.no_grad():  # it hears the first token of the vocabulary, "a"
        vectors = made.trunk.embed.weight * 50
        made.trunk.embed.weight.copy_(vectors)
        ffn.up.weight[3] = torch.linalg.pinv(vectors - vectors.mean(1, keepdim=True))[:, 0] * 100
    found = top.look(looking(made, text, neurons="3"))
    (one,) = found["places"]["trunk.stack.blocks.0.ffn.activation"]
    assert {"[a]"} == {part["text"][part["text"].index("[") :][:3] for part in one["top"]}
    place = one["top"][0]["offset"]
    assert text.val.gather([place], 1)[0, 0] == 0
    with pytest.raises(ValueError, match="has 64 neurons: there is no 99"):
        top.look(looking(made, text, neurons="99"))


def mixture() -> GPT:
    """Of two experts, of which a token asks one."""
    block = {"name": "prenorm", "ffn": {"name": "moe", "experts": 2, "top": 1}}
    return make(decode(GPTConfig, {**SIZES, "n_layer": 1, "block": block}), seed=1)


def test_an_expert_that_no_token_chose_has_no_neurons(tmp_path) -> None:
    text = Corpus.open(tiny.corpus(tmp_path))
    made = mixture()
    with torch.no_grad():  # all choose the first
        made.get_parameter("trunk.stack.blocks.0.ffn.router.choose.weight").zero_()
    found = top.look(looking(made, text))["places"]
    assert list(found) == ["trunk.stack.blocks.0.ffn.experts.activation"]


def test_of_an_experts_neurons_the_tokens_that_it_was_sent_are_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "TOGETHER", 64)  # several passes
    text = Corpus.open(tiny.corpus(tmp_path))
    made = mixture()
    ffn = made.trunk.stack.blocks[0].ffn
    seen = looking(made, text)
    chosen, every = [], []
    ffn.router.register_forward_hook(lambda _m, _x, logits: chosen.append(logits.argmax(-1)))
    found = top.gather(seen, top.places(seen))
    sent = torch.cat(chosen)
    ffn.fused = False  # each expert hears all tokens, in their order
    ffn.experts.activation.register_forward_hook(lambda _m, _x, h: every.append(h))
    for ids, _ in sight.batches(seen):
        made(ids)
    for expert, one in enumerate(found.values()):
        h = torch.cat(every[expert::2])
        assert (sent[one.places] == expert).all()
        want, _ = h.where((sent == expert)[:, None], -torch.inf).topk(top.KEPT, 0)
        torch.testing.assert_close(one.values, want)
        torch.testing.assert_close(h.gather(0, one.places), want)


def test_what_has_no_row_for_each_token_has_no_neurons(tmp_path) -> None:
    block = {"name": "prenorm", "attention": {"name": "causal", "score": "sigmoid"}}
    made = make(decode(GPTConfig, {**SIZES, "block": block}), seed=1)
    seen = looking(made, Corpus.open(tiny.corpus(tmp_path)))
    with pytest.raises(ValueError, match=r"that fits --only '\*.score' gives a row for each token"):
        top.look(replace(seen, only="*.score"))
