"""Embeddings beside the plain table, and where tables start."""

import pytest
import torch

from espalier.config import decode
from espalier.cost import count
from espalier.errors import ConfigError
from espalier.nn.embed.factorised import FactorisedConfig
from espalier.nn.embed.fake_quantised import FakeQuantisedConfig
from espalier.nn.embed.learned import LearnedConfig, Start
from espalier.nn.embed.scaled import ScaledConfig
from espalier.nn.gpt import GPTConfig, sketch
from espalier.nn.slots import Dims, Embed, reset, roles
from espalier.nn.state import at

DIMS = Dims(n_layer=1, n_embd=16, n_head=1, block_size=8, vocab_size=40, std=0.5)
IDS = torch.tensor([[3, 7, 3]])


def made(embed: Embed) -> Embed:
    reset(embed, 0)
    return embed


def test_a_factorised_table_goes_up_one_way_and_back_the_same() -> None:
    part = made(FactorisedConfig(width=4).build(DIMS))
    table, up = part.get_parameter("weight"), part.get_parameter("up")
    assert (table.shape, up.shape) == ((40, 4), (16, 4))
    torch.testing.assert_close(part(IDS, at(IDS))[0, 1], up @ table[7])
    hidden = torch.randn(16)
    torch.testing.assert_close(part.logits(hidden), (table @ up.T) @ hidden)
    assert roles(part) == {"weight": "embedding", "up": "matrix"}


def test_a_factorised_embedding_starts_as_large_as_a_plain_one() -> None:
    dims = Dims(n_layer=1, n_embd=256, n_head=1, block_size=8, vocab_size=500, std=0.5)
    ids = torch.arange(500)[None]
    assert made(FactorisedConfig().build(dims))(ids, at(ids)).std().item() == pytest.approx(
        0.5, rel=0.05
    )


def test_a_factorised_embedding_refuses_to_be_wider_than_the_model() -> None:
    with pytest.raises(ConfigError, match=r"embed\.width=17 is more than model\.n_embd=16"):
        FactorisedConfig(width=17).build(DIMS)


def test_products_count_the_table_that_a_tied_head_reads() -> None:
    fields = {"n_layer": 1, "n_embd": 16, "n_head": 1, "block_size": 8, "vocab_size": 40}
    plain = count.parameters(sketch(decode(GPTConfig, fields)))
    thin = {**fields, "embed": {"name": "factorised", "width": 4}}
    narrow = count.parameters(sketch(decode(GPTConfig, thin)))
    assert plain.products == 12 * 16**2 + 40 * 16
    assert narrow.products == 12 * 16**2 + 40 * 4 + 16 * 4
    scaled = count.parameters(sketch(decode(GPTConfig, {**fields, "embed": "scaled"})))
    assert scaled.products == plain.products


def test_an_embedding_is_scaled_by_the_root_of_its_width_and_logits_are_not() -> None:
    part = made(ScaledConfig().build(DIMS))
    table = part.get_parameter("embed.weight")
    torch.testing.assert_close(part(IDS, at(IDS))[0, 0], 4.0 * table[3])
    torch.testing.assert_close(part.logits(torch.ones(16)), table.sum(1))
    assert "scale" not in dict(part.named_parameters())
    assert made(ScaledConfig(learn=True).build(DIMS)).get_parameter("scale").item() == 4.0


def test_a_quantised_table_is_read_rounded_and_learns_straight_through() -> None:
    part = made(FakeQuantisedConfig(bits=4).build(DIMS))
    table = part.get_parameter("weight")
    got = part(IDS, at(IDS))
    step = table[7].abs().max() / 7
    torch.testing.assert_close(got[0, 1], (table[7] / step).round() * step)
    (grad,) = torch.autograd.grad(got.sum(), table)
    assert grad[3].tolist() == [2.0] * 16  # read twice
    assert grad[7].tolist() == [1.0] * 16


@pytest.mark.parametrize(
    "start", ["gaussian", "corners", "distinct_corners", "cube", "sphere", "onehot"]
)
def test_every_start_has_the_same_mean_square(start: Start) -> None:
    dims = Dims(n_layer=1, n_embd=32, n_head=1, block_size=8, vocab_size=2000, std=0.5)
    table = made(LearnedConfig(start=start).build(dims)).get_parameter("weight")
    assert table.square().mean().item() == pytest.approx(0.25, rel=0.05)


def test_starts_are_what_they_are_called() -> None:
    def table(start: Start) -> torch.Tensor:
        return made(LearnedConfig(start=start).build(DIMS)).get_parameter("weight").detach()

    assert set(table("corners").flatten().tolist()) == {-0.5, 0.5}
    assert len(table("distinct_corners").unique(dim=0)) == 40
    assert table("cube").abs().max() <= 0.5 * 3**0.5
    torch.testing.assert_close(table("sphere").norm(dim=1), torch.full((40,), 2.0))
    assert table("onehot")[17].nonzero().tolist() == [[1]]


def test_too_few_corners_are_refused() -> None:
    dims = Dims(n_layer=1, n_embd=5, n_head=1, block_size=8, vocab_size=40)
    with pytest.raises(ConfigError, match=r"n_embd=5 has only 32 corners for .*vocab_size=40"):
        LearnedConfig(start="distinct_corners").build(dims)
