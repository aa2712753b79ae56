"""Causal attention's options, by numbers worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from espalier.config import decode, encode
from espalier.errors import ConfigError
from espalier.nn.attend import Attend, Rules, Sink
from espalier.nn.attention.causal import Causal, CausalConfig
from espalier.nn.gpt import GPTConfig, make, sketch
from espalier.nn.score.softmax import Softmax
from espalier.nn.slots import Dims, reset
from espalier.nn.state import Pass, allocate, at
from espalier.tree import merge

DIMS = Dims(n_layer=2, n_embd=8, n_head=2, block_size=16, vocab_size=6, std=0.5, residual_std=0.5)
NOW = at(torch.zeros(1, 3, dtype=torch.long))
X = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))


def built(**fields: object) -> Causal:
    part = decode(CausalConfig, fields).build(DIMS, 0)
    reset(part, 0)
    assert isinstance(part, Causal)
    return part.eval()


def heads(constant: float | None, shape: tuple[int, ...] | None = None) -> Attend:
    sink = None if constant is None else Sink(constant, shape)
    part = Attend(Softmax(), (1, 1), Rules(), sink)
    reset(part, 0)
    return part


def test_off_by_one_adds_c_to_the_denominator() -> None:
    # scores 0 and ln 3 (q k / sqrt(4) with q = 2): 1 * e^0 and 2 * 3, over C + 1 + 3
    q = torch.tensor([2.0, 0, 0, 0])[None, None, None].expand(1, 2, 1, 4)
    k = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]])[None, :, None]
    v = torch.tensor([1.0, 2.0])[None, :, None, None].expand(1, 2, 1, 4)
    now = at(torch.zeros(1, 2, dtype=torch.long))
    for constant, first, second in ((None, 1.0, 7 / 4), (1.0, 1 / 2, 7 / 5), (4.0, 1 / 5, 7 / 8)):
        part = heads(constant)
        for part.fused in (True, False):
            got = part.mix(q, k, v, None, now)[0, :, 0, 0]
            assert got.tolist() == pytest.approx([first, second], rel=1e-6)


def test_a_learned_c_starts_at_the_constant_and_stays_positive() -> None:
    part = heads(3.0, (1,))
    level = part.get_parameter("sink.level")
    assert level.exp().item() == pytest.approx(3.0)
    assert built(off_by_one="layer").get_parameter("sink.level").shape == ()
    assert built(off_by_one="head").get_parameter("sink.level").shape == (2,)
    assert "sink.level" not in dict(built(off_by_one="fixed").named_parameters())


def test_the_first_token_may_say_nothing_but_is_seen() -> None:
    """The original's shifted mask hid a token from itself: its value then did not count at all."""
    part = built(off_by_one="fixed", constant=1e-6)
    plain = built()
    plain.load_state_dict(part.state_dict())
    torch.testing.assert_close(part(X, NOW), plain(X, NOW), atol=1e-4, rtol=1e-4)


def test_off_by_one_is_refused_where_there_is_no_softmax() -> None:
    with pytest.raises(ConfigError, match=r"off_by_one=layer .*attention.score is consmax"):
        built(off_by_one="layer", score="consmax")


def test_a_learned_scale_takes_the_place_of_one_over_root_width() -> None:
    norm = {"name": "hypersphere", "radius": 1}
    part = built(qk_norm=norm, qk_scale="learned")
    assert part.get_parameter("q_norm.g").item() == pytest.approx(math.log2(16 * 15))
    q, k, _ = part.project(X, NOW)
    g, plain = part.get_parameter("q_norm.g"), built(qk_norm=norm)
    plain.load_state_dict({n: t for n, t in part.state_dict().items() if n != "q_norm.g"})
    unit_q, unit_k, _ = plain.project(X, NOW)
    assert unit_q.norm(dim=-1).tolist()[0][0] == pytest.approx([1.0, 1.0])
    scores = torch.einsum("bqhw,bkhw->bhqk", q, k) / math.sqrt(4)
    cosines = torch.einsum("bqhw,bkhw->bhqk", unit_q, unit_k)
    torch.testing.assert_close(scores, g * cosines)


def test_a_scale_without_a_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"qk_scale=learned needs attention\.qk_norm"):
        built(qk_scale="learned")


@pytest.mark.parametrize(("gate", "rows"), [("head", 2), ("element", 8)])
def test_a_gate_scales_what_heads_say(gate: str, rows: int) -> None:
    part, plain = built(gate=gate), built()
    names = plain.state_dict().keys()
    plain.load_state_dict({n: t for n, t in part.state_dict().items() if n in names})
    assert part.get_parameter("gate.weight").shape == (rows, 8)
    with torch.no_grad():
        part.get_parameter("gate.weight").zero_()
        part.get_parameter("gate.bias").fill_(math.log(3))  # sigmoid: 3/4
        plain.get_parameter("out.weight").mul_(0.75)
    torch.testing.assert_close(part(X, NOW), plain(X, NOW))


def test_a_closed_gate_silences_its_head_alone() -> None:
    part = built(gate="head")
    with torch.no_grad():
        part.get_parameter("gate.weight").zero_()
        part.get_parameter("gate.bias").copy_(torch.tensor([-1e9, 0.0]))
        before = part(X, NOW)
        part.get_parameter("out.weight")[:, :4].zero_()  # what the first head writes through
    assert torch.equal(part(X, NOW), before)


CYCLE = {
    "n_layer": 5,
    "n_embd": 8,
    "n_head": 2,
    "vocab_size": 6,
    "block_size": 8,
    "cycle": [
        {"repeat": 2, "block": {"attention": {"window": 4}}},
        {"block": {"attention": "linear", "ffn": {"width": 12}}},
    ],
}


def test_a_cycle_repeats_to_the_last_layer() -> None:
    blocks = decode(GPTConfig, CYCLE).blocks()
    names = [block.attention.name for block in blocks]
    assert names == ["causal", "causal", "linear", "causal", "causal"]
    assert [block.ffn.width for block in blocks] == [None, None, 12, None, None]


def test_layers_go_on_top_of_a_cycle() -> None:
    tree = CYCLE | {"layers": [{"repeat": 4}, {"block": {"attention": {"window": 7}}}]}
    blocks = decode(GPTConfig, tree).blocks()
    windows = [getattr(block.attention, "window", None) for block in blocks]
    assert windows == [4, 4, None, 4, 7]


def test_a_mistake_in_a_cycle_is_named_by_its_place() -> None:
    tree = CYCLE | {"cycle": [{"block": {"attention": {"windov": 4}}}]}
    with pytest.raises(ConfigError, match=r"unknown field 'windov' in model\.cycle\.0\.block"):
        decode(GPTConfig, tree).blocks()


def model(position: str = "learned", **attention: object) -> GPTConfig:
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 6, "block_size": 8}
    tree = sizes | {"position": position, "block": {"attention": attention}}
    return decode(GPTConfig, merge(encode(GPTConfig()), tree))


@pytest.mark.parametrize("name", ["linear", "elementwise_linear", "ssm", "identity"])
def test_a_position_that_nobody_asks_for_is_refused(name: str) -> None:
    fields = {"head_width": 8} if name == "ssm" else {}
    with pytest.raises(ConfigError, match=r"model\.position=rotary .*none here asks"):
        sketch(model("rotary", name=name, **fields))


def test_a_position_with_a_bias_for_other_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alibi has a bias for 2 heads .*layer 0 has 3"):
        sketch(model("alibi", name="infinite", n_head=3))


def test_a_sink_is_there_in_every_step() -> None:
    net = make(model(name="causal", off_by_one="head", constant=2.0), seed=0).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        states, steps = allocate(net, 1, 8, "cpu"), []
        for t in range(4):
            now = Pass(torch.tensor([[t]]), states, 8, fresh=False)
            steps.append(net(ids[:, t : t + 1], now))
        whole: Tensor = net(ids)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-4)


def test_options_bring_the_functions_that_they_evaluate() -> None:
    assert built().special == {}
    gated = built(gate="head", softcap=2.0)
    assert gated.special == {"tanh": 1, "exp": 1, "divide": 1}  # cap; sigmoid(g) = 1 / (1 + e^-g)


@pytest.mark.parametrize(
    "block",
    [
        {
            "name": "prenorm",
            "attention": {
                "name": "causal",
                "n_head": 1,
                "score": {"name": "consmax", "per": "head"},
            },
        },
        {"name": "prenorm", "attention": {"name": "infinite", "n_head": 3, "score": "consmax_v2"}},
        {"name": "cortical", "neurons": [1], "score": {"name": "strongermax", "learn": "head"}},
    ],
)
def test_a_score_learns_for_the_heads_that_there_are(block: dict[str, object]) -> None:
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 16, "vocab_size": 6}
    model = make(decode(GPTConfig, {**sizes, "block": block}), 0)
    assert model(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, 6)
