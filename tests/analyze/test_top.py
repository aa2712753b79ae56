"""Top activations: the largest of each neuron, and where they were met."""

import pytest
import torch

from espalier.analyze import top
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.nn.gpt import GPTConfig, make
from tests.analyze.test_lens import looking
from tests.analyze.test_probe import model
from tests.train import tiny


def test_the_largest_of_pieces_are_the_largest_of_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 10, 4)
    found = top.Top(3)
    for piece in x.split(2):
        found.add(piece)
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


def test_an_expert_that_no_token_chose_has_no_neurons(tmp_path) -> None:
    text = Corpus.open(tiny.corpus(tmp_path))
    block = {"name": "prenorm", "ffn": {"name": "moe", "experts": 2, "top": 1}}
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}
    made = make(decode(GPTConfig, {**sizes, "block": block}), seed=1)
    with torch.no_grad():  # all choose the first
        made.get_parameter("trunk.stack.blocks.0.ffn.router.choose.weight").zero_()
    found = top.look(looking(made, text))["places"]
    assert list(found) == ["trunk.stack.blocks.0.ffn.experts.activation"]
