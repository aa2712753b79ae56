"""Feed-forward parts beside mlp and glu: numbers worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from espalier.errors import ConfigError
from espalier.nn.activation.relu import ReluConfig
from espalier.nn.ffn.dual_path import DualPathConfig
from espalier.nn.ffn.identity import IdentityConfig
from espalier.nn.ffn.kan import KanConfig
from espalier.nn.ffn.mlp import MlpConfig
from espalier.nn.ffn.moe import Moe, MoeConfig
from espalier.nn.slots import Dims, Part, reset, splits, xavier
from espalier.nn.state import Pass, at
from tests.contract.harness import same

DIMS = Dims(n_layer=1, n_embd=1, n_head=1, block_size=8, vocab_size=6, bias=False)
WIDE = Dims(n_layer=1, n_embd=12, n_head=1, block_size=64, vocab_size=6)
NOW = at(torch.zeros(1, 1, dtype=torch.long))


def fill(part: Part, **values: float) -> Part:
    reset(part, 0)
    with torch.no_grad():
        for name, value in values.items():
            part.get_parameter(f"{name}.weight").fill_(value)
    return part


def test_offsets_shift_what_the_activation_reads_and_says() -> None:
    config = MlpConfig(width=1, activation=ReluConfig(), x_offset=1.0, y_offset=0.5)
    part = fill(config.build(DIMS, 0), up=2.0, down=10.0)
    # 10 (relu(2 * 3 - 1) - 0.5) = 45, 10 (relu(2 * 0 - 1) - 0.5) = -5
    assert part(torch.tensor([3.0]), NOW).item() == 45.0
    assert part(torch.tensor([0.0]), NOW).item() == -5.0
    assert list(part.parameters()) == [part.get_parameter(f"{n}.weight") for n in ("up", "down")]


def test_learned_offsets_begin_where_they_are_set() -> None:
    part = MlpConfig(x_offset=0.25, learn_offsets=True).build(DIMS, 0)
    reset(part, 0)
    assert part.get_parameter("activation.offset.x").item() == 0.25
    assert part.get_parameter("activation.offset.y").item() == 0.0


def test_an_mlp_without_offsets_has_none() -> None:
    names = [name for name, _ in MlpConfig().build(DIMS, 0).named_modules()]
    assert names == ["", "up", "activation", "down"]


def test_dual_path_leads_above_and_below_zero_apart() -> None:
    config = DualPathConfig(width=1, activation=ReluConfig(), x_offset=1.0)
    part = fill(config.build(DIMS, 0), up=1.0, above=10.0, below=100.0)
    # above: 10 relu(h - 1); below: 100 * -relu(-(h + 1))
    assert part(torch.tensor([3.0]), NOW).item() == 20.0
    assert part(torch.tensor([-3.0]), NOW).item() == -200.0
    assert part(torch.tensor([0.5]), NOW).item() == 0.0


def test_dual_path_has_mlps_parameters() -> None:
    dims = Dims(n_layer=1, n_embd=96, n_head=1, block_size=8, vocab_size=6, bias=False)
    assert sum(p.numel() for p in DualPathConfig().build(dims, 0).parameters()) == 8 * 96 * 96


def test_kan_is_one_layer_from_the_width_to_itself() -> None:
    part = fill(KanConfig(order=2).build(DIMS, 0), edges=1.0)
    with torch.no_grad():
        part.get_parameter("edges.edges").copy_(torch.tensor([[10.0, 100.0]]))
    t, silu = math.tanh(1), 1 / (1 + math.exp(-1))
    want = silu + 10 * t + 100 * (3 * t * t - 1) / 2
    assert part(torch.tensor([1.0]), NOW).item() == pytest.approx(want)


def test_identity_hands_on_what_it_reads() -> None:
    x = torch.randn(2, 3)
    assert IdentityConfig().build(DIMS, 0)(x, NOW) is x


def moe(dims: Dims = WIDE, **fields: object) -> Moe:
    part = MoeConfig(**fields).build(dims, 0)  # type: ignore[arg-type]
    assert isinstance(part, Moe)
    reset(part, 0)
    return part


def batch(rows: int = 2, time: int = 5) -> tuple[Tensor, Pass]:
    x = torch.randn(rows, time, 12, generator=torch.Generator().manual_seed(0))
    return x, at(x[..., 0])


def test_moe_weighs_the_chosen_experts_by_their_softmax() -> None:
    part = moe(DIMS, experts=3, top=2, width=1, activation=ReluConfig())
    with torch.no_grad():
        part.get_parameter("router.choose.weight").copy_(torch.tensor([[1.0], [2.0], [-9.0]]))
        part.get_parameter("experts.up.weight").copy_(torch.tensor([[1.0], [1.0], [1.0]]))
        part.get_parameter("experts.down.weight").copy_(torch.tensor([[10.0], [100.0], [1e6]]))
    share = 1 / (1 + math.exp(-1))  # of the second: softmax of 1 and 2
    got = part(torch.ones(1, 1, 1), NOW).item()
    assert got == pytest.approx((1 - share) * 10 + share * 100)


def test_a_single_expert_is_weighed_by_its_softmax_over_all() -> None:
    part = moe(DIMS, experts=2, top=1, width=1, activation=ReluConfig())
    with torch.no_grad():
        part.get_parameter("router.choose.weight").copy_(torch.tensor([[0.0], [1.0]]))
        part.get_parameter("experts.up.weight").fill_(1.0)
        part.get_parameter("experts.down.weight").copy_(torch.tensor([[10.0], [100.0]]))
    assert part(torch.ones(1, 1, 1), NOW).item() == pytest.approx(100 / (1 + math.exp(-1)))


@pytest.mark.parametrize("fields", [{"top": 1}, {"glu": True}, {"experts": 5, "top": 3}])
def test_grouped_experts_give_what_all_experts_give(fields: dict[str, object]) -> None:
    part = moe(**fields).double()
    x, now = batch()
    fast = part(x.double(), now)
    part.fused = False
    same(part(x.double(), now), fast)


def test_the_balance_loss_is_one_when_balanced_and_experts_when_one_takes_all() -> None:
    part = moe(experts=4, top=1, balance=1.0)
    x, now = batch(4, 16)
    with torch.no_grad():
        part.get_parameter("router.choose.weight").zero_()
        part.get_parameter("router.choose.weight")[2, 0] = 1e4
    part(x.abs(), now)
    assert now.losses["balance"].item() == pytest.approx(4.0)
    even = torch.eye(4).repeat(16, 3).reshape(1, 64, 12) * 1e4
    with torch.no_grad():
        part.get_parameter("router.choose.weight").copy_(torch.eye(4).repeat(1, 3))
    now = at(even[..., 0])
    part(even, now)
    assert now.losses["balance"].item() == pytest.approx(1.0)


def test_padding_is_not_balanced_and_capacity_is_told() -> None:
    part = moe(experts=2, top=1, balance=1.0)
    with torch.no_grad():
        part.get_parameter("router.choose.weight").zero_()
        part.get_parameter("router.choose.weight")[0, 0] = 1e4
        part.get_parameter("router.choose.weight")[1, 0] = -1e4
    x = torch.zeros(1, 4, 12)
    x[0, :, 0] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    now = Pass(torch.tensor([[0, 1, 2, -1]]), listening=True)
    part(x, now)
    assert now.told is not None
    # two of three real tokens choose the first of two experts
    assert now.told["expert capacity"][0].item() == pytest.approx(2 / 3 * 2)
    assert now.losses["balance"].item() == pytest.approx(2 * (4 / 9 + 1 / 9))


def test_noise_stirs_the_router_only_in_training() -> None:
    part = moe(noise=True)
    x, now = batch()
    assert not torch.equal(part(x, now), part(x, now))
    part.eval()
    assert torch.equal(part(x, now), part(x, now))


def test_each_expert_is_a_matrix_to_muon_and_a_token_costs_what_mlp_costs() -> None:
    part = moe(experts=4, top=2)
    assert splits(part) == {"experts.up.weight": (24,) * 4, "experts.down.weight": (12,) * 4}


def test_a_gated_expert_holds_two_matrices_that_start_as_such() -> None:
    part = moe(experts=2, top=1, width=60, glu=True)
    split = splits(part)
    assert split["experts.up.weight"] == (60, 60, 60, 60)
    xavier(part, 0, split)
    bound = (6 / (12 + 60)) ** 0.5
    assert 0.95 * bound < part.get_parameter("experts.up.weight").abs().max() <= bound


def test_moe_refuses_more_choices_than_experts() -> None:
    with pytest.raises(ConfigError, match=r"ffn\.top=3 is more than ffn\.experts=2"):
        moe(experts=2, top=3)
