"""Cortical blocks and feedback: counts by formula, layouts by rule, numbers by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.config import decode
from espalier.cost.count import parameters
from espalier.cost.match import By, match
from espalier.errors import ConfigError
from espalier.experiment import load
from espalier.nn.block.cortical import Cortical
from espalier.nn.cortex import layout
from espalier.nn.cortex.branches import BranchConv, BranchLinear, join, split
from espalier.nn.cortex.trace import Trace
from espalier.nn.gpt import GPT, GPTConfig, make, sketch
from espalier.nn.slots import Dims, reset, unused
from espalier.nn.stack.feedback import Feedback, Link
from espalier.nn.state import Pass, at

DIMS = Dims(n_layer=1, n_embd=4, n_head=1, block_size=8, vocab_size=6)
NOW = at(torch.zeros(1, 6, dtype=torch.long))


def size(*parts: torch.nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def model(**fields: object) -> GPTConfig:
    sizes = {"n_layer": 4, "n_embd": 48, "n_head": 4, "block_size": 16, "vocab_size": 11}
    return decode(GPTConfig, {**sizes, "head": "untied", "block": "cortical", **fields})


def blocks(gpt: GPT) -> list[Cortical]:
    stack = gpt.trunk.stack
    return [part for part in stack.modules() if isinstance(part, Cortical)]


def test_every_published_count_is_counted() -> None:
    gpt = sketch(load("biogpt-reference").model)
    counted = parameters(gpt)
    assert counted.total == 294_532_636
    assert counted.unused == 7_108_608
    assert counted.live == 287_424_028
    tables = ("trunk.embed", "trunk.position", "head")
    assert [counted.by_part[part] for part in tables] == [38_633_472, 786_432, 38_633_472]
    layers = [size(block) for block in blocks(gpt)]
    assert layers == [14_324_738] * 4 + [22_371_075] * 4 + [15_651_842] * 4
    feedback = gpt.trunk.stack
    assert isinstance(feedback, Feedback)
    assert size(feedback.links) == 7_087_104
    traces = [m for m in gpt.modules() if isinstance(m, Trace)]
    assert (len(traces), size(*traces)) == (28, 21_504)
    middle = blocks(gpt)[4].neurons
    own = [size(neuron) - size(neuron.get_submodule("soma.out")) for neuron in middle]
    assert own == [6_571_776, 6_792_960, 7_235_328]


def test_biogpt_is_the_published_one_without_what_no_pass_reads() -> None:
    gpt = sketch(load("biogpt").model)
    assert parameters(gpt).total == parameters(gpt).live == 287_424_028
    published = sketch(load("biogpt-reference").model)
    gone = set(published.state_dict()) - set(gpt.state_dict())
    assert gone == set(unused(published))


@pytest.mark.parametrize("branches", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("expansion", [1, 3])
def test_a_neuron_has_the_formulas_parameters(branches: int, expansion: int) -> None:
    d, e = 48, expansion
    config = model(block={"name": "cortical", "neurons": [branches], "expansion": e}, n_layer=1)
    neuron = blocks(sketch(config))[0].neurons[0]
    w = d // branches
    assert size(neuron) == (4 + 2 * e) * d * d + 9 * d * w + (9 + e) * d + d * d


def test_branches_follow_the_published_rule() -> None:
    middle = (8, 6, 4)
    assert [layout.branches(i, 12, 768) for i in range(12)] == (
        [(8, 8)] * 4 + [middle] * 4 + [(4, 4)] * 4
    )
    assert [layout.zone(i, 4) for i in range(4)] == ["early", "middle", "middle", "late"]
    assert layout.zone(0, 1) == "early"
    assert layout.branches(1, 4, 100) == (5, 5, 4)  # 8 and 6 come down to 5, which divides 100


def test_the_last_third_speaks_to_the_first() -> None:
    assert layout.links(12) == ((8, 0), (9, 1), (10, 2), (11, 3))
    assert layout.links(4) == ((3, 0),)
    assert layout.links(2) == ()


def test_a_pruned_neuron_is_ordinary_configuration() -> None:
    block = {"neurons": [{"branches": 3, "branch_width": 6}, 4]}
    config = model(block="cortical", layers=[{"block": block}, {"repeat": 3}])
    first = blocks(make(config, 0))[0]
    assert [neuron.get_parameter("qkv.weight").shape for neuron in first.neurons] == [
        (54, 48),
        (144, 48),
    ]
    assert first.describe()["shape"] == ["3x6", "4x12"]


def test_branches_that_do_not_fill_the_width_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"5 branches must divide model.n_embd=48 \(possible: 1,"):
        sketch(model(block={"name": "cortical", "neurons": [5]}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_convolution_and_its_gradients_are_a_grouped_convolutions(dtype: torch.dtype) -> None:
    dims = Dims(n_layer=1, n_embd=12, n_head=1, block_size=8, vocab_size=6, std=0.5)
    conv = BranchConv(3, 4, 5, dims).to(dtype)
    reset(conv, 0)
    conv.bias = torch.nn.Parameter(torch.randn(12, dtype=dtype))
    x = torch.randn(2, 6, 12, dtype=dtype, requires_grad=True)
    weights = torch.randn(2, 6, 12, dtype=dtype)

    def theirs() -> Tensor:
        past = F.pad(x.mT, (4, 0))
        return x + F.conv1d(past, conv.weight, conv.bias, groups=3).mT

    def ours() -> Tensor:
        return join(conv(x, at(torch.zeros(2, 6))))

    asked = [x, conv.weight, conv.bias]
    want = [theirs(), *torch.autograd.grad((theirs() * weights).sum(), asked)]
    got = [ours(), *torch.autograd.grad((ours() * weights).sum(), asked)]
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_the_last_tap_is_the_token_itself() -> None:
    conv = BranchConv(1, 1, 3, Dims(1, 1, 1, 8, 6))
    reset(conv, 0)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[100.0, 10.0, 1.0]]]))
        x = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1)
        c = conv(x, at(torch.zeros(1, 4)))
    assert c.flatten().tolist() == [2, 10 + 4, 100 + 20 + 6, 200 + 30 + 8]


def test_each_branch_has_a_matrix_of_its_own() -> None:
    part = BranchLinear(2, 1, 1, Dims(1, 2, 1, 8, 6))
    reset(part, 0)
    with torch.no_grad():
        part.weight.copy_(torch.tensor([[2.0], [3.0]]))
        y = join(part(split(torch.tensor([[[5.0, 7.0]]]), 2), NOW))
    assert y.flatten().tolist() == [10.0, 21.0]


def test_an_activation_has_parameters_for_each_feature_of_each_branch() -> None:
    config = model(block={"name": "cortical", "neurons": [3], "activation": "oscillating"})
    gpt = make(config, 0)
    neuron = blocks(gpt)[0].neurons[0]
    omega = neuron.get_parameter("activation.omega")
    assert omega.shape == (3 * 2 * 16,)
    gpt(torch.zeros(2, 5, dtype=torch.long)).sum().backward()
    assert omega.grad is not None
    assert omega.grad.count_nonzero() == omega.numel()


def test_the_trace_fades_by_tau_and_sees_only_the_past() -> None:
    trace = Trace(1)
    with torch.no_grad():
        trace.decay.zero_()  # tau = 1/2
        v = torch.tensor([4.0, 8.0, 0.0, 0.0]).view(1, 4, 1)
        got = trace(v, at(torch.zeros(1, 4)))
    # m = 2, 1 + 4 = 5, 2.5; a token sees half of the m before it
    assert got.flatten().tolist() == [4.0, 8.0 + 1.0, 2.5, 1.25]


def test_a_trace_in_pieces_is_the_trace_at_once() -> None:
    trace = Trace(3)
    reset(trace, 0)
    v = torch.randn(2, 9, 3)
    with torch.no_grad():
        whole = trace(v, at(torch.zeros(2, 9)))
        states: list[object] = []
        for cut in (slice(0, 4), slice(4, 5), slice(5, 9)):
            positions = torch.arange(9)[cut].expand(2, -1)
            now = Pass(positions, states, 16, fresh=cut.start == 0)
            torch.testing.assert_close(trace(v[:, cut], now), whole[:, cut])


def test_a_neuron_takes_the_positional_bias_of_its_own_layer() -> None:
    each = {"name": "fire", "layers": "each"}
    config = model(n_layer=2, position=each, block={"name": "cortical", "neurons": [4]})
    gpt = make(config, 1)
    gpt(torch.arange(11)[None]).sum().backward()
    bends = {name: p.grad for name, p in gpt.named_parameters() if name.endswith("down_bias")}
    assert list(bends) == [f"trunk.position.shares.{layer}.down_bias" for layer in (0, 1)]
    assert all(gradient is not None for gradient in bends.values())


def passing(inject: str, passes: int = 2) -> Feedback:
    """Two layers that multiply by 2 and 3, and a link from the second to the second."""

    class Times(torch.nn.Module):
        def __init__(self, by: float):
            super().__init__()
            self.by = by

        def forward(self, x: Tensor, now: Pass) -> Tensor:
            return self.by * x

    class Add(torch.nn.Module):
        def forward(self, x: Tensor, said: Tensor, now: Pass) -> Tensor:
            return x + said

    layers, links = [Times(2), Times(3)], [Add()]
    part = Feedback(layers, links, [(1, 1)], passes, inject)  # type: ignore[arg-type]
    reset(part, 0)
    return part


def test_a_link_ends_at_its_target_or_at_the_embedding() -> None:
    x = torch.ones(1, 6, 1)
    # first pass: 2, 6. Second, at the target: (2 + 6) * 3; at the embedding: (1 + 6) * 2 * 3
    with torch.no_grad():
        assert passing("target")(x, NOW)[0, 0] == (6 + 24) / 2
        assert passing("embedding")(x, NOW)[0, 0] == (6 + 42) / 2


def test_a_third_pass_hears_the_second() -> None:
    with torch.no_grad():
        got = passing("target", passes=3)(torch.ones(1, 6, 1), NOW)
    assert got[0, 0].item() == pytest.approx((6 + 24 + (2 + 24) * 3) / 3)


def test_a_closed_gate_lets_nothing_through() -> None:
    config = model(stack={"name": "feedback", "passes": 2})
    gpt = make(config, 0)
    (link,) = (part for part in gpt.modules() if isinstance(part, Link))
    with torch.no_grad():
        link.get_parameter("gate.bias").fill_(-1e4)
        x, said = torch.randn(1, 6, 48), torch.randn(1, 6, 48)
        assert torch.equal(link(x, said, NOW), x)


def test_one_pass_builds_no_link() -> None:
    gpt = sketch(model(stack="feedback"))
    assert not [part for part in gpt.modules() if isinstance(part, Link)]
    assert gpt.trunk.stack.describe() == {"feedback": "none (1 pass)"}


@pytest.mark.parametrize(
    ("matrices", "conv", "qkv"),
    [
        ("xavier", 6 * 5 + 6 * 5, 48 + 48),  # each branch of 6, 5 taps; each of q, k, v
        ("xavier_stacked", 6 * 5 + 48 * 5, 48 + 144),  # as published
    ],
)
def test_xavier_starts_each_matrix_within_its_own_bounds(
    matrices: str, conv: int, qkv: int
) -> None:
    gpt = make(model(init={"matrices": matrices}), 0)
    neuron = "trunk.stack.blocks.0.neurons.0"
    fans = {f"{neuron}.conv.weight": conv, f"{neuron}.qkv.weight": qkv}
    for name, both in {**fans, "trunk.embed.weight": 11 + 48}.items():
        bound = (6 / both) ** 0.5
        assert 0.95 * bound < gpt.get_parameter(name).abs().max() <= bound
    assert not gpt.get_parameter("trunk.stack.blocks.0.competition").any()


@pytest.mark.parametrize(
    ("recipe", "by"),
    [
        ("biogpt", "params"),
        pytest.param("biogpt", "flops", marks=pytest.mark.long),
        ("biogpt-small", "params"),
        ("biogpt-small", "flops"),
        ("biogpt-small-50k", "params"),
        ("biogpt-small-50k", "flops"),
    ],
)
def test_dense_twins_are_what_matching_gives(recipe: str, by: By) -> None:
    twin = load(f"{recipe}-iso-{by}").model
    assert match(twin, load(recipe).model, by) == twin
