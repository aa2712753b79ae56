"""Each part's own numbers, worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from espalier.errors import ConfigError
from espalier.nn.activation.gelu import GeluConfig
from espalier.nn.activation.relu import ReluConfig
from espalier.nn.activation.relu2 import Relu2Config
from espalier.nn.activation.silu import SiluConfig
from espalier.nn.attention.causal import CausalConfig
from espalier.nn.block.parallel import Parallel
from espalier.nn.block.postnorm import Postnorm
from espalier.nn.block.prenorm import Prenorm
from espalier.nn.embed.bigram import BigramConfig
from espalier.nn.embed.learned import LearnedConfig
from espalier.nn.ffn.glu import GluConfig
from espalier.nn.ffn.mlp import MlpConfig
from espalier.nn.head.tied import TiedConfig
from espalier.nn.head.untied import UntiedConfig
from espalier.nn.linear.dense import DenseConfig
from espalier.nn.norm.layer import LayerConfig
from espalier.nn.norm.rms import RmsConfig
from espalier.nn.position import alibi, learned, none, rotary
from espalier.nn.score.softmax import SoftmaxConfig
from espalier.nn.slots import Dims, Part, onto_residual, reset
from espalier.nn.stack.plain import PlainConfig
from espalier.nn.state import Pass, at

DIMS = Dims(n_layer=2, n_embd=4, n_head=2, block_size=8, vocab_size=6)
NOW = at(torch.zeros(1, 3, dtype=torch.long))


def made(part: Part) -> Part:
    reset(part, 0)
    return part


def test_layer_norm_of_one_and_three_is_minus_one_and_one() -> None:
    part = made(LayerConfig(eps=1e-12).build(2, DIMS, 0))
    assert part(torch.tensor([1.0, 3.0]), NOW).tolist() == pytest.approx([-1.0, 1.0])


def test_layer_norm_shifts_only_with_bias() -> None:
    plain = Dims(n_layer=1, n_embd=4, n_head=1, block_size=8, vocab_size=6, bias=False)
    assert len(list(LayerConfig().build(4, DIMS, 0).parameters())) == 2
    assert len(list(LayerConfig().build(4, plain, 0).parameters())) == 1


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    part = made(RmsConfig(eps=1e-12).build(2, DIMS, 0))
    root = math.sqrt((3**2 + 4**2) / 2)
    assert part(torch.tensor([3.0, 4.0]), NOW).tolist() == pytest.approx([3 / root, 4 / root])
    assert list(RmsConfig(gain=False).build(2, DIMS, 0).parameters()) == []


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (ReluConfig(), [0.0, 0.0, 2.0]),
        (Relu2Config(), [0.0, 0.0, 4.0]),
        (SiluConfig(), [-1 / (1 + math.e), 0.0, 2 / (1 + math.exp(-2))]),
        (GeluConfig(), [-0.158655254, 0.0, 1.954499736]),
        (GeluConfig(approximate="tanh"), [-0.158808009, 0.0, 1.954597694]),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_activation_at_minus_one_zero_and_two(config: GeluConfig, want: list[float]) -> None:
    got = config.build(3, DIMS, 0)(torch.tensor([-1.0, 0.0, 2.0]), NOW)
    assert got.tolist() == pytest.approx(want, abs=1e-6)


def test_dense_is_a_matrix_product_and_a_bias() -> None:
    part = DenseConfig().build(2, 1, DIMS, 0)
    with torch.no_grad():
        part.get_parameter("weight").copy_(torch.tensor([[2.0, 3.0]]))
        part.get_parameter("bias").fill_(1.0)
    assert part(torch.tensor([10.0, 100.0]), NOW).tolist() == [321.0]


def test_projections_onto_the_residual_stream_start_smaller() -> None:
    dims = Dims(
        n_layer=8, n_embd=512, n_head=1, block_size=8, vocab_size=6, std=0.02, residual_std=0.005
    )
    inside, onto = (DenseConfig().build(512, 512, dims, 0) for _ in range(2))
    onto_residual(onto, dims)
    assert made(inside).get_parameter("weight").std().item() == pytest.approx(0.02, rel=0.02)
    assert made(onto).get_parameter("weight").std().item() == pytest.approx(0.005, rel=0.02)


def test_softmax_gives_nothing_to_what_the_mask_hides() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), 50.0]])
    mask = torch.tensor([[True, True, False]])
    got = SoftmaxConfig().build(DIMS, 0)(scores, mask, NOW)
    assert got.tolist()[0] == pytest.approx([0.25, 0.75, 0.0])


def test_embedding_and_tied_head_read_one_table() -> None:
    embed = LearnedConfig().build(DIMS)
    reset(embed, 0)
    head = TiedConfig().build(DIMS, embed)
    table = embed.get_parameter("weight")
    assert torch.equal(embed(torch.tensor([[5]]), NOW)[0, 0], table[5])
    hidden = torch.ones(4)
    assert head(hidden)[2].item() == pytest.approx(table[2].sum().item())
    assert list(head.parameters()) == []


def test_bigram_adds_a_vector_for_the_pair_except_where_a_text_begins() -> None:
    part = BigramConfig().build(DIMS)
    with torch.no_grad():
        part.get_parameter("weight").copy_(torch.arange(6.0)[:, None].expand(6, 4))
        part.get_parameter("pairs").copy_(100 * torch.arange(36.0)[:, None].expand(36, 4))
    ids = torch.tensor([[2, 3, 1]])
    # pair (2, 3) is row 2 * 6 + 3 = 15, pair (3, 1) row 19
    assert part(ids, at(ids))[0, :, 0].tolist() == [2.0, 1503.0, 1901.0]


def test_bigrams_share_rows_where_there_are_too_few() -> None:
    part = BigramConfig(size=7).build(DIMS)
    assert part.get_parameter("pairs").shape == (7, 4)
    ids = torch.randint(6, (2, 8))
    assert part(ids, at(ids)).shape == (2, 8, 4)


def test_softcap_bends_logits_into_its_range() -> None:
    embed = LearnedConfig().build(DIMS)
    reset(embed, 0)
    hidden = torch.ones(4) * 1000
    plain = TiedConfig().build(DIMS, embed)(hidden)
    got = TiedConfig(softcap=3.0).build(DIMS, embed)(hidden)
    torch.testing.assert_close(got, 3 * torch.tanh(plain / 3))
    untied = made(UntiedConfig(softcap=3.0).build(DIMS, embed))
    assert untied(hidden).abs().max() <= 3


def test_no_position_adds_turns_and_biases_nothing() -> None:
    part = none.NoneConfig().build(DIMS)
    x, q = torch.randn(1, 3, 4), torch.randn(1, 3, 2, 2)
    assert part.add(x, NOW) is x
    assert part.turn(q, NOW) is q
    assert part.bias(NOW, NOW.positions, 0) is None


def test_learned_position_adds_its_row() -> None:
    part = learned.LearnedConfig().build(DIMS)
    reset(part, 0)
    x = torch.zeros(1, 2, 4)
    got = part.add(x, Pass(torch.tensor([[3, 1]])))
    assert torch.equal(got[0], part.get_parameter("weight")[[3, 1]])


def _turned(config: rotary.RotaryConfig, x: list[float], position: int) -> list[float]:
    part = config.build(DIMS)
    vector = torch.tensor(x).reshape(1, 1, 1, -1)
    return part.turn(vector, Pass(torch.tensor([[position]]))).flatten().tolist()


def test_rotary_turns_a_pair_by_its_position() -> None:
    config = rotary.RotaryConfig()
    assert _turned(config, [1.0, 0.0], 2) == pytest.approx([math.cos(2), math.sin(2)])
    assert _turned(config, [0.0, 1.0], 2) == pytest.approx([-math.sin(2), math.cos(2)])


def test_rotary_pairs_halves_or_neighbours() -> None:
    dims = Dims(n_layer=1, n_embd=4, n_head=1, block_size=8, vocab_size=6)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    now = Pass(torch.tensor([[1]]))
    slow = 10000**-0.5
    halves = rotary.RotaryConfig().build(dims).turn(x, now).flatten()
    assert halves[0].item() == pytest.approx(math.cos(1) - 3 * math.sin(1))
    assert halves[1].item() == pytest.approx(2 * math.cos(slow) - 4 * math.sin(slow))
    near = rotary.RotaryConfig(interleaved=True).build(dims).turn(x, now).flatten()
    assert near[0].item() == pytest.approx(math.cos(1) - 2 * math.sin(1))
    assert near[2].item() == pytest.approx(3 * math.cos(slow) - 4 * math.sin(slow))


def test_rotary_scores_depend_on_distance_alone() -> None:
    dims = Dims(n_layer=1, n_embd=8, n_head=1, block_size=99, vocab_size=6)
    part = rotary.RotaryConfig().build(dims)
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(at_q: int, at_k: int) -> Tensor:
        return (
            part.turn(q, Pass(torch.tensor([[at_q]]))) * part.turn(k, Pass(torch.tensor([[at_k]])))
        ).sum()

    torch.testing.assert_close(score(7, 3), score(64, 60))


def test_partial_rotary_leaves_the_rest_alone() -> None:
    dims = Dims(n_layer=1, n_embd=8, n_head=1, block_size=8, vocab_size=6)
    x = torch.randn(1, 1, 1, 8)
    got = rotary.RotaryConfig(fraction=0.25).build(dims).turn(x, Pass(torch.tensor([[5]])))
    assert torch.equal(got[..., 2:], x[..., 2:])
    assert not torch.equal(got[..., :2], x[..., :2])


def test_rotary_refuses_an_odd_number_of_features() -> None:
    dims = Dims(n_layer=1, n_embd=6, n_head=2, block_size=8, vocab_size=6)
    with pytest.raises(ConfigError, match=r"position\.fraction=1\.0 turns 3 of 3"):
        rotary.RotaryConfig().build(dims)


def test_alibi_slopes_are_the_papers() -> None:
    assert alibi.slopes(8) == [2.0**-n for n in range(1, 9)]
    assert alibi.slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]


def test_alibi_subtracts_slope_times_distance() -> None:
    part = alibi.AlibiConfig().build(DIMS)
    got = part.bias(Pass(torch.tensor([[5]])), torch.tensor([[5, 3, 0]]), 0)
    assert got is not None
    assert got[0, 0, 0].tolist() == pytest.approx([0.0, -2 / 16, -5 / 16])


def _uniform_attention(x: Tensor, **fields: int) -> Tensor:
    """Attention whose queries are zero (all scores equal) and whose values are the inputs."""
    dims = Dims(n_layer=1, n_embd=2, n_head=1, block_size=8, vocab_size=6, bias=False)
    part = CausalConfig(**fields).build(dims, 0)
    with torch.no_grad():
        part.get_parameter("qkv.weight").copy_(torch.cat([torch.zeros(4, 2), torch.eye(2)]))
        part.get_parameter("out.weight").copy_(torch.eye(2))
    return part(x, at(x[..., 0]))


def test_attention_with_equal_scores_is_the_mean_of_the_past() -> None:
    x = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [5.0, 7.0]]])
    assert _uniform_attention(x).tolist() == [[[1.0, 0.0], [2.0, 1.0], [3.0, 3.0]]]


def test_a_window_of_two_sees_itself_and_one_before() -> None:
    x = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [5.0, 6.0]]])
    assert _uniform_attention(x, window=2).tolist() == [[[1.0, 0.0], [2.0, 1.0], [4.0, 4.0]]]


def test_attention_equals_its_formula_in_float64() -> None:
    dims = Dims(n_layer=1, n_embd=8, n_head=4, block_size=8, vocab_size=6)
    part = made(CausalConfig(n_kv_head=2, softcap=3.0).build(dims, 0)).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    q, k, v = (x @ part.get_parameter("qkv.weight").T).split([8, 4, 4], -1)
    heads = []
    for h in range(4):
        here, group = slice(2 * h, 2 * h + 2), slice(2 * (h // 2), 2 * (h // 2) + 2)
        scores = 3 * torch.tanh(q[0, :, here] @ k[0, :, group].T / math.sqrt(2) / 3)
        scores += torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)
        heads.append(scores.softmax(-1) @ v[0, :, group])
    want = torch.cat(heads, -1) @ part.get_parameter("out.weight").T
    torch.testing.assert_close(part(x, at(x[..., 0]))[0], want)


def test_grouped_queries_refuse_heads_that_do_not_divide() -> None:
    dims = Dims(n_layer=1, n_embd=12, n_head=6, block_size=8, vocab_size=6)
    with pytest.raises(ConfigError, match=r"n_kv_head=4 must divide model\.n_head=6.*1, 2, 3, 6"):
        CausalConfig(n_kv_head=4).build(dims, 0)


def test_mlp_is_four_wide_and_glu_has_as_many_parameters() -> None:
    dims = Dims(n_layer=1, n_embd=96, n_head=1, block_size=8, vocab_size=6, bias=False)
    sizes = [
        sum(p.numel() for p in c.build(dims, 0).parameters()) for c in (MlpConfig(), GluConfig())
    ]
    assert sizes == [8 * 96 * 96, 8 * 96 * 96]


def test_glu_multiplies_the_activated_gate_with_the_other_half() -> None:
    dims = Dims(n_layer=1, n_embd=1, n_head=1, block_size=8, vocab_size=6, bias=False)
    part = GluConfig(width=1, activation=ReluConfig()).build(dims, 0)
    with torch.no_grad():
        for name, value in {"gate": 2.0, "up": 3.0, "down": 5.0}.items():
            part.get_parameter(f"{name}.weight").fill_(value)
    assert part(torch.tensor([1.0]), NOW).item() == 30.0
    assert part(torch.tensor([-1.0]), NOW).item() == 0.0


class Times(Part):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        return x * self.factor


def test_blocks_are_wired_as_their_formulas_say() -> None:
    half, three, five = Times(0.5), Times(3), Times(5)
    x = torch.ones(1, 1, 1)
    # x + 3 (x/2) = 2.5;  2.5 + 5 (2.5/2) = 8.75
    assert Prenorm(half, three, half, five)(x, NOW).item() == 8.75
    # (x + 3x)/2 = 2;  (2 + 5*2)/2 = 6
    assert Postnorm(three, half, five, half)(x, NOW).item() == 6.0
    # x + 3 (x/2) + 5 (2x) = 12.5 with two norms, x + 3 (x/2) + 5 (x/2) = 5 with one
    assert Parallel(half, three, Times(2), five)(x, NOW).item() == 12.5
    assert Parallel(half, three, None, five)(x, NOW).item() == 5.0


def test_plain_stack_calls_its_blocks_in_order() -> None:
    class Plus(Times):
        def forward(self, x: Tensor, now: Pass) -> Tensor:
            return x + self.factor

    stack = PlainConfig().build(DIMS, [Times(2), Plus(1), Times(10)])
    assert stack(torch.ones(1, 1, 1), at(torch.zeros(1, 1))).item() == 30.0
