"""Positions: learned biases, symmetric angles and the encoder, by numbers worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from espalier.config import decode
from espalier.errors import ConfigError
from espalier.nn.position.encoder import EncoderConfig
from espalier.nn.position.fire import Fire, FireConfig
from espalier.nn.position.rotary import RotaryConfig
from espalier.nn.position.symmetric_rotary import SymmetricRotaryConfig
from espalier.nn.slots import Dims, reset
from espalier.nn.state import Pass, at

DIMS = Dims(n_layer=3, n_embd=8, n_head=2, block_size=16, vocab_size=6)


def fire(**fields: object) -> Fire:
    part = decode(FireConfig, fields).build(DIMS)
    reset(part, 0)
    assert isinstance(part, Fire)
    return part


@torch.no_grad()
def echo(part: Fire, layer: int = 0) -> None:
    """Make the mlp say the share itself in head 0, and twice it in head 1."""
    for name in ("up_bias", "down", "down_bias"):
        part.get_parameter(f"shares.{layer}.{name}").zero_()
    part.get_parameter(f"shares.{layer}.up").fill_(1.0)
    part.get_parameter(f"shares.{layer}.down")[:, 0] = torch.tensor([1.0, 2.0])


def bias(part: Fire, positions: list[int], layer: int = 0) -> Tensor:
    now = Pass(torch.tensor([positions]))
    found = part.bias(now, now.positions, layer)
    assert found is not None
    return found


def test_fire_is_a_share_of_how_far_a_query_looks() -> None:
    part = fire(c=0.5, threshold=4)
    echo(part)
    got = bias(part, [0, 3, 8])
    assert got.shape == (1, 2, 3, 3)
    psi = lambda x: math.log(1 + 0.5 * x)  # noqa: E731
    assert got[0, 0, 2].tolist() == pytest.approx([1.0, psi(5) / psi(8), 0.0])
    assert got[0, 0, 1, 0].item() == pytest.approx(psi(3) / psi(4))  # the threshold, not 3
    assert got[0, 1, 2, 1].item() == pytest.approx(2 * psi(5) / psi(8))


def test_fire_starts_as_published() -> None:
    part = fire()
    assert part.get_parameter("shares.0.c").item() == pytest.approx(0.1)
    assert part.get_parameter("shares.0.m").item() == 1.0
    assert part.shares[0].threshold == 512
    assert part.get_parameter("shares.0.down").shape == (2, 32)


def test_fire_has_one_function_or_one_for_each_layer() -> None:
    shared, each = fire(), fire(layers="each")
    assert len(shared.shares) == 1
    assert len(each.shares) == 3
    assert torch.equal(bias(shared, [0, 5], 0), bias(shared, [0, 5], 2))
    assert not torch.equal(bias(each, [0, 5], 0), bias(each, [0, 5], 2))


def test_a_shared_fire_is_worked_out_once_a_pass() -> None:
    part, now = fire(), at(torch.zeros(2, 5, dtype=torch.long))
    part.add(torch.zeros(2, 5, 8), now)
    first, again = (part.bias(now, now.positions, layer) for layer in (0, 1))
    assert first is again
    assert first.shape == (1, 2, 5, 5)  # rows that stand alike share it


def test_every_pair_turns_by_the_same_angle() -> None:
    part = SymmetricRotaryConfig(angles=8).build(DIMS)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0])[None, None, None]  # pairs are (0, 2) and (1, 3)
    got = part.turn(x, Pass(torch.tensor([[1]]))).flatten()
    root = math.sqrt(0.5)  # an eighth of a turn
    assert got.tolist() == pytest.approx([root] * 4)


def test_symmetric_angles_come_round_and_do_not_count_calls() -> None:
    part = SymmetricRotaryConfig(angles=8).build(DIMS)
    x = torch.randn(1, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    once = part.turn(x, Pass(torch.tensor([[3]])))
    assert torch.equal(part.turn(x, Pass(torch.tensor([[3]]))), once)
    assert torch.equal(part.turn(x, Pass(torch.tensor([[11]]))), once)


def test_symmetric_rotary_refuses_half_a_pair() -> None:
    with pytest.raises(ConfigError, match=r"3 features .*odd"):
        SymmetricRotaryConfig().build(Dims(1, 6, 2, 8, 6))


def test_rotary_turns_heads_of_other_widths_by_angles_of_their_own() -> None:
    part = RotaryConfig().build(DIMS)
    now = at(torch.zeros(1, 2, dtype=torch.long))
    part.add(torch.zeros(1, 2, 8), now)  # leaves tables for heads of width 4
    x = torch.tensor([1.0, 0.0])[None, None, None].expand(1, 2, 1, 2)
    got = part.turn(x, now)[0, 1, 0]
    assert got.tolist() == pytest.approx([math.cos(1), math.sin(1)])
    odd = part.turn(torch.ones(1, 2, 1, 3), now)  # the third feature has no partner
    assert odd[..., 2].tolist() == [[[1.0], [1.0]]]


def test_the_encoder_adds_what_its_blocks_say() -> None:
    part = EncoderConfig(n_layer=2, n_head=4).build(DIMS)
    reset(part, 0)
    ids = torch.zeros(1, 3, dtype=torch.long)
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    table = part.get_parameter("weight")
    want = x + table[:3]
    for name in ("blocks.0", "blocks.1"):
        want = part.get_submodule(name)(want, at(ids))
    torch.testing.assert_close(part.add(x, at(ids)), x + want)
    assert part.get_submodule("blocks.0.attention").heads == 4


def test_the_encoders_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"position\.n_head=3 must divide model\.n_embd=8"):
        EncoderConfig(n_head=3).build(DIMS)
