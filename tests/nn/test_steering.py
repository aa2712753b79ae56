"""Learned steering: a vector or a network for each corpus, or a mixture, after one layer."""

import math

import pytest
import torch

from espalier.config import decode, encode
from espalier.errors import ConfigError
from espalier.nn.gpt import GPTConfig, make, sketch
from espalier.nn.slots import Dims, Part, SteeringConfig, reset, splits
from espalier.nn.state import Pass, at
from espalier.nn.steered import Steered
from espalier.nn.steering.mixture import MixtureConfig
from espalier.nn.steering.mlp import MlpConfig
from espalier.nn.steering.one_hot import OneHotConfig
from espalier.tree import merge

DIMS = Dims(n_layer=2, n_embd=4, n_head=2, block_size=8, vocab_size=6, std=0.5, residual_std=0.5)
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def built(config: SteeringConfig) -> Part:
    part = config.build(DIMS)
    reset(part, 0)
    return part


def of(*source: int) -> Pass:
    now = at(torch.zeros(len(source), 3, dtype=torch.long))
    now.source = torch.tensor(source)
    return now


def model(**steering: object) -> GPTConfig:
    sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 6, "block_size": 8}
    return decode(GPTConfig, merge(encode(GPTConfig()), sizes | {"steering": steering}))


def each(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of two networks with five hidden features: (2, 5, 4) and (2, 4, 5)."""
    up, down = (part.get_parameter(f"each.{name}.weight") for name in ("up", "down"))
    return up.view(2, 5, 4), down.view(2, 4, 5)


def test_each_row_gets_the_vector_of_its_corpus() -> None:
    part = built(OneHotConfig(sources=3, alpha=2.0))
    vectors = part.get_parameter("vectors")
    got = part(X, of(2, 0))
    torch.testing.assert_close(got[0], X[0] + 2 * vectors[2])
    torch.testing.assert_close(got[1], X[1] + 2 * vectors[0])


def test_a_row_of_no_known_corpus_counts_as_the_first() -> None:
    part = built(OneHotConfig())
    now = at(torch.zeros(2, 3, dtype=torch.long))
    torch.testing.assert_close(part(X, now), part(X, of(0, 0)))


@torch.no_grad()
def test_each_row_goes_through_the_network_of_its_corpus() -> None:
    part = built(MlpConfig(sources=2, width=5, activation=_relu()))
    up, down = each(part)
    bias = part.get_parameter("each.up.bias")
    bias.normal_(generator=torch.Generator().manual_seed(1))
    bias = bias.view(2, 5)
    got = part(X, of(1, 0))
    for row, source in ((0, 1), (1, 0)):
        hidden = torch.relu(X[row] @ up[source].T + bias[source])
        torch.testing.assert_close(got[row], X[row] + hidden @ down[source].T)


def test_the_networks_of_corpora_are_matrices_of_their_own() -> None:
    part = built(MlpConfig(sources=3, width=5))
    assert splits(part) == {"each.up.weight": (5, 5, 5), "each.down.weight": (4, 4, 4)}


@pytest.mark.parametrize(
    ("gate", "want"),
    [
        ("softmax", [1 / 7, 2 / 7, 4 / 7]),
        ("sigmoid", [1 / 2, 2 / 3, 4 / 5]),
        ("top", [0.0, 1 / 3, 2 / 3]),
    ],
)
def test_shares_of_networks_wanted_as_1_to_2_to_4(gate: str, want: list[float]) -> None:
    part = built(decode(MixtureConfig, {"gate": gate, "sources": 3}))
    wanted = torch.tensor([0.0, math.log(2), math.log(4)])
    assert part.shares(wanted).tolist() == pytest.approx(want)  # type: ignore[operator]


@torch.no_grad()
def test_a_mixture_adds_networks_by_their_shares() -> None:
    part = built(MixtureConfig(gate="sigmoid", sources=2, width=5, activation=_relu()))
    shares = torch.sigmoid(part.get_submodule("router")(X, of(0, 0)))
    up, down = each(part)
    said = [torch.relu(X @ up[i].T) @ down[i].T * shares[..., i : i + 1] for i in range(2)]
    torch.testing.assert_close(part(X, of(0, 0)), X + said[0] + said[1])


def test_it_stands_after_the_layer_it_names() -> None:
    net = make(model(name="one_hot", layer=1), seed=0)
    kinds = [type(block) for block in net.trunk.stack.get_submodule("blocks").children()]
    assert kinds[0] is not Steered
    assert kinds[1] is Steered


def test_the_corpus_of_a_row_reaches_it_through_layers() -> None:
    net = make(model(name="one_hot"), seed=0).eval()
    ids = torch.zeros(2, 3, dtype=torch.long)
    logits = net(ids, of(0, 1))
    assert not torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[0], net(ids)[0])


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"steering\.layer=2: layers are 0 to 1"):
        sketch(model(name="one_hot", layer=2))
    with pytest.raises(ConfigError, match=r"steering\.top=3 .*steering\.sources=2"):
        sketch(model(name="mixture", gate="top", top=3))


def _relu() -> object:
    return decode(MlpConfig, {"activation": "relu"}).activation
