"""How layers are wired: sharing, skips, mixtures, confidence, value embeddings, norms' places."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from espalier.compress.shrink import silence, sites, take_out
from espalier.config import decode
from espalier.cost import count
from espalier.errors import ConfigError
from espalier.nn.block.peri import Serial, Side
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.slots import Dims, Part
from espalier.nn.stack.confidence import ConfidenceConfig
from espalier.nn.stack.mixed import MixedConfig
from espalier.nn.stack.shared import Pattern
from espalier.nn.stack.unet import UnetConfig
from espalier.nn.state import Pass, at
from espalier.train import checkpoint

DIMS = Dims(n_layer=2, n_embd=1, n_head=1, block_size=8, vocab_size=6)
NOW = at(torch.zeros(1, 1, dtype=torch.long))
IDS = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0))
FIELDS = {"n_layer": 6, "n_embd": 16, "n_head": 2, "block_size": 16, "vocab_size": 20}


class Times(Part):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        return x * self.factor


def model(**fields: Any) -> GPT:
    return make(decode(GPTConfig, {**FIELDS, **fields}), 0)


def run(stack: Part) -> float:
    with torch.no_grad():
        for part in stack.modules():
            if isinstance(part, Part):
                part.reset()
    return stack(torch.ones(1, 1, 1), at(torch.zeros(1, 1))).item()


@pytest.mark.parametrize(
    ("fields", "letters"),
    [
        ({"size": 2}, "AABBCC"),
        ({"sequence": 2}, "ABABAB"),
        ({"size": 2, "sequence": 2}, "AABBAA"),
        ({"mirror": True}, "ABCCBA"),
        ({"mirror": True, "size": 2}, "AABBAA"),
        ({"sequence": 1}, "AAAAAA"),
    ],
)
def test_layers_share_in_patterns(fields: dict[str, Any], letters: str) -> None:
    assert Pattern(**fields).owners(6) == [letters.index(letter) for letter in letters]


def test_a_mirror_of_an_odd_number_has_one_in_the_middle() -> None:
    assert Pattern(mirror=True).owners(5) == [0, 1, 2, 1, 0]  # ABCBA


def test_forty_layers_can_share() -> None:
    assert Pattern().owners(40) == list(range(40))  # the original runs out of letters at 26


def test_shared_layers_are_one_and_count_once() -> None:
    net, plain = model(stack="shared"), model()
    layers = [net.trunk.stack.get_submodule(f"blocks.{i}") for i in range(6)]
    assert [layers.index(layer) for layer in layers] == [0, 0, 2, 2, 4, 4]
    layer = sum(p.numel() for p in layers[0].parameters())
    assert count.parameters(plain).total - count.parameters(net).total == 3 * layer


def test_a_shared_model_is_its_layers_run_twice() -> None:
    net, plain = model(stack="shared"), model()
    for i in range(6):
        theirs = net.trunk.stack.get_submodule(f"blocks.{i}")
        plain.trunk.stack.get_submodule(f"blocks.{i}").load_state_dict(theirs.state_dict())
    plain.trunk.embed.load_state_dict(net.trunk.embed.state_dict())
    plain.trunk.position.load_state_dict(net.trunk.position.state_dict())
    torch.testing.assert_close(net(IDS), plain(IDS))


def test_halves_are_shared_apart_from_each_other() -> None:
    stack = {"name": "shared", "block": None, "attention": {"mirror": True}, "ffn": {"size": 3}}
    net = model(stack=stack)
    layers = [net.trunk.stack.get_submodule(f"blocks.{i}") for i in range(6)]
    attention = [layer.get_submodule("attention") for layer in layers]
    ffn = [layer.get_submodule("ffn") for layer in layers]
    assert [attention.index(one) for one in attention] == [0, 1, 2, 2, 1, 0]
    assert [ffn.index(one) for one in ffn] == [0, 0, 0, 3, 3, 3]
    assert len({id(layer) for layer in layers}) == 6


def test_a_checkpoint_of_a_shared_model_holds_each_tensor_once(tmp_path: Path) -> None:
    stack = {"name": "shared", "block": None, "ffn": {"sequence": 1}}
    net, other = model(stack=stack), model(stack=stack)
    with torch.no_grad():
        other.get_parameter("trunk.stack.blocks.3.ffn.up.weight").zero_()
    checkpoint.writer(net)(tmp_path)
    checkpoint.load_model(other, tmp_path)
    assert torch.equal(net(IDS), other(IDS))
    names = checkpoint.tensors(net)
    assert "trunk.stack.blocks.0.ffn.up.weight" in names
    assert "trunk.stack.blocks.3.ffn.up.weight" not in names


@torch.no_grad()
def test_units_leave_a_shared_layer_wherever_it_stands() -> None:
    fields = {**FIELDS, "stack": "shared"}
    net = model(stack="shared").double()
    gone = {site.where: [0] for site in sites(net)}
    assert {where.layer for where in gone} == {0, 2, 4}
    smaller, config = take_out(net, decode(GPTConfig, fields), gone)
    silence(net, gone)
    torch.testing.assert_close(smaller(IDS), net(IDS))
    second = smaller.trunk.stack.get_submodule("blocks.1")
    assert second.get_parameter("ffn.up.weight").shape == (63, 16)
    assert [block.model_dump()["ffn"]["width"] for block in config.blocks()] == [63] * 6


def test_layers_that_differ_cannot_be_one() -> None:
    layers = [{"repeat": 3}, {"repeat": 3, "block": {"attention": {"window": 4}}}]
    with pytest.raises(ConfigError, match=r"stack\.block \(shared\): layers 2 and 3 share"):
        model(stack="shared", layers=layers)
    stack = {"name": "shared", "block": None, "ffn": {"size": 6}}
    model(stack=stack, layers=layers)  # their feed-forward parts are equal


def test_a_block_without_halves_cannot_share_them() -> None:
    stack = {"name": "shared", "block": None, "ffn": {"size": 2}}
    with pytest.raises(ConfigError, match=r"stack\.ffn \(shared\): block cortical has no ffn"):
        model(stack=stack, block="cortical")


def test_a_whole_layer_and_a_half_are_not_shared_at_once() -> None:
    with pytest.raises(ConfigError, match=r"write stack\.block=null"):
        model(stack={"name": "shared", "ffn": {"size": 2}})


def test_confidence_weighs_what_a_layer_adds() -> None:
    stack = ConfidenceConfig(start="ones", constant=0.5).build(DIMS, [Times(3)])
    # y = 3 - 1 = 2;  1 + 2 (2 * 1 + 0.5) = 6
    assert run(stack) == 6.0
    assert run(ConfidenceConfig().build(DIMS, [Times(3), Times(5)])) == 15.0


def test_the_second_half_hears_the_first() -> None:
    stack = UnetConfig(start=10.0).build(DIMS, [Times(2), Times(3), Times(5)])
    # 2, 6, and 5 (6 + 10 * 2) = 130: the middle has no skip
    assert run(stack) == 130.0
    assert run(UnetConfig(start=1.0).build(DIMS, [Times(2), Times(3)])) == 12.0


def test_a_linear_mixture_starts_as_the_last_layer() -> None:
    stack = MixedConfig().build(DIMS, [Times(2), Times(3)])
    assert run(stack) == 6.0
    with torch.no_grad():
        stack.get_parameter("mixer.weight").copy_(torch.tensor([1.0, 10.0, 100.0]))
    assert stack(torch.ones(1, 1, 1), NOW).item() == 1 + 20 + 600


def test_a_router_mixes_the_layers_it_chooses() -> None:
    stack = MixedConfig(by="router").build(DIMS, [Times(2), Times(3)])
    run(stack)
    with torch.no_grad():
        stack.get_parameter("mixer.choose.weight").zero_()
        stack.get_parameter("mixer.weight").copy_(torch.tensor([-1.0, 2.0, 1.0]))
    share = 1 / (1 + math.exp(-1))
    got = stack(torch.ones(1, 1, 1), NOW).item()
    assert got == pytest.approx(share * 2 + (1 - share) * 6)
    with pytest.raises(ConfigError, match=r"stack\.top=3: there are only 2 outputs of 1 layers"):
        MixedConfig(by="router", top=3).build(DIMS, [Times(2)])


def test_attention_over_depth_is_a_softmax_of_products_with_the_last() -> None:
    stack = MixedConfig(by="attention").build(DIMS, [Times(2)])
    run(stack)
    with torch.no_grad():
        stack.get_parameter("mixer.query.weight").fill_(1.0)
        stack.get_parameter("mixer.key.weight").fill_(0.5)
        stack.get_parameter("mixer.weight").zero_()
    share = 1 / (1 + math.exp(-1))  # scores 2 * 0.5 and 2 * 1
    got = stack(torch.ones(1, 1, 1), NOW).item()
    assert got == pytest.approx((1 - share) * 1 + share * 2)


def test_value_embeddings_are_attentions_values() -> None:
    net = model(n_layer=4, stack={"name": "value_embeddings", "tables": 1, "start": 2.0}).eval()
    attention = net.trunk.stack.get_submodule("blocks.0.attention")
    with torch.no_grad():
        for i in (0, 3):
            net.get_parameter(f"trunk.stack.blocks.{i}.attention.qkv.weight").zero_()
    heard: list[Tensor] = []
    out = attention.get_submodule("out")
    out.register_forward_hook(lambda _m, inputs, _o: heard.append(inputs[0]))
    net(IDS)
    table = net.get_parameter("trunk.stack.tables.0.weight")
    # with equal scores and no values of its own: twice the mean of the table's rows so far
    torch.testing.assert_close(heard[0][:, 2], 2 * table[IDS[:, :3]].mean(1))


def test_first_and_last_layers_hear_the_same_tables() -> None:
    stack = model(stack={"name": "value_embeddings", "tables": 2}).trunk.stack
    assert stack.heard == {0: 0, 1: 1, 4: 0, 5: 1}
    assert model(n_layer=1, stack="value_embeddings").trunk.stack.heard == {0: 0}


def test_value_embeddings_refuse_layers_that_take_none() -> None:
    with pytest.raises(ConfigError, match=r"value_embeddings\): layer 0 has cortical"):
        model(stack="value_embeddings", block="cortical")
    layers = [{"repeat": 3}, {"repeat": 3, "block": {"attention": {"n_kv_head": 1}}}]
    with pytest.raises(ConfigError, match=r"layers differ in attention\.n_kv_head"):
        model(stack="value_embeddings", layers=layers)


def test_norms_stand_before_behind_and_after_each_half() -> None:
    half, three, five, nine = Times(0.5), Times(3), Times(5), Times(9)
    x = torch.ones(1, 1, 1)
    pre, peri, post = (half, Times(1)), (Times(2), Times(1)), (Times(1), half)
    # 1 + 2 * 3 * 0.5 = 4;  0.5 (4 + 5 * 4) = 12
    assert Serial(three, five, pre, peri, post)(x, NOW).item() == 12.0
    # 9 (1 + 2 * 3 * 0.5 + 5 * 1) = 81
    assert Side(three, five, pre, peri, (nine, Times(1)))(x, NOW).item() == 81.0


@pytest.mark.parametrize(
    ("fields", "last"),
    [
        ({}, "layer"),
        ({"norm": "rms", "peri": "dyt"}, "rms"),
        ({"at": ["peri"], "peri": "rms"}, "rms"),
        ({"at": ["pre", "post"]}, None),
        ({"at": []}, None),
    ],
)
def test_the_trunks_last_norm_follows_the_blocks(fields: dict[str, Any], last: str | None) -> None:
    config = decode(GPTConfig, {**FIELDS, "block": {"name": "peri", **fields}}).block.last_norm()
    assert (config.name if config else None) == last


def test_a_norm_in_a_place_that_has_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"block\.post needs post in block\.at"):
        model(block={"name": "peri", "post": "rms"})
