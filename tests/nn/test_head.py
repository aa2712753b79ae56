"""Heads that predict further than the next token."""

import pytest
import torch
from torch.nn import functional as F

from espalier.config import decode
from espalier.engine.generate import Options, generate
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.head.multi_token import MultiToken
from espalier.nn.state import Pass, at

IDS = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0))


def model(head: object) -> GPT:
    fields = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "vocab_size": 20}
    return make(decode(GPTConfig, {**fields, "init": {"std": 0.2}, "head": head}), 0)


def test_further_heads_add_the_mean_loss_of_the_tokens_they_predict() -> None:
    net = model({"name": "multi_token", "tokens": 3, "weight": 0.5})
    head, now = net.head, at(IDS)
    hidden = net.trunk(IDS, now)
    assert isinstance(head, MultiToken)
    second, third = head.ahead(hidden, at(IDS))
    want = F.cross_entropy(second[:, :-2].flatten(0, 1), IDS[:, 2:].flatten())
    want = want + F.cross_entropy(third[:, :-3].flatten(0, 1), IDS[:, 3:].flatten())
    torch.testing.assert_close(now.losses["multi token"], 0.5 * want)


def test_a_head_predicts_nothing_across_documents_or_in_padding() -> None:
    net = model({"name": "multi_token", "tokens": 2})
    packed = Pass(torch.tensor([[0, 1, 2, 3, 0, 1, 2, -1, -1]] * 2), packed=True)
    hidden = net.trunk(IDS, packed)
    assert isinstance(net.head, MultiToken)
    (second,) = net.head.ahead(hidden, Pass(packed.positions, packed=True))
    wanted = torch.full((2, 7), -1)
    wanted[:, [0, 1, 4]] = IDS[:, [2, 3, 6]]
    want = F.cross_entropy(second[:, :-2].flatten(0, 1), wanted.flatten(), ignore_index=-1)
    torch.testing.assert_close(packed.losses["multi token"], want)


def test_scoring_and_generation_use_the_first_head_alone() -> None:
    plain, several = model("untied"), model({"name": "multi_token", "head": "untied"})
    for mine, other in zip(
        plain.trunk.state_dict().values(), several.trunk.state_dict().values(), strict=True
    ):
        other.copy_(mine)
    several.head.get_parameter("head.weight").data.copy_(plain.head.get_parameter("weight"))
    several.eval()
    now = at(IDS)
    torch.testing.assert_close(several(IDS, now), plain(IDS))
    assert now.losses == {}
    options = Options(max_new_tokens=5)
    assert generate(plain, 16, [[1, 2]], options) == generate(several, 16, [[1, 2]], options)


@pytest.mark.parametrize("time", [1, 2])
def test_a_text_too_short_to_look_ahead_has_no_further_loss(time: int) -> None:
    net, now = model("multi_token"), at(IDS[:, :time])
    net.trunk(IDS[:, :time], now)
    assert now.losses == {}


def test_further_heads_hear_the_position_of_the_last_layer() -> None:
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}
    position = {"name": "fire", "layers": "each"}
    tree = {**sizes, "position": position, "head": {"name": "multi_token", "tokens": 2}}
    gpt, now = make(decode(GPTConfig, tree), 1), at(torch.arange(8)[None])
    gpt(torch.arange(8)[None], now)
    now.losses["multi token"].backward()
    assert gpt.get_parameter("trunk.position.shares.1.c").grad is not None
