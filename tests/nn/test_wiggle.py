"""WiggleGPT's parts, each against its formula."""

import math

import pytest
import torch
from torch import Tensor

from espalier.config import decode
from espalier.engine.weights import pack
from espalier.errors import ConfigError
from espalier.native import gathered
from espalier.native.build import prepare
from espalier.nn.activation.oscillating import Oscillating
from espalier.nn.ffn import dendritic
from espalier.nn.ffn.sparse_event import Gathered, Hard, Soft
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.slots import Dims, reset, roles, splits
from espalier.nn.state import Pass, at

NOW = Pass(torch.zeros(1, 1, dtype=torch.long))
DIMS = Dims(n_layer=2, n_embd=10, n_head=2, block_size=8, vocab_size=11)
IDS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(1))


def build(ffn: object, **model: object) -> GPT:
    tree = {"n_layer": 2, "n_embd": 32, "n_head": 4, "block_size": 32, "vocab_size": 50}
    config = decode(GPTConfig, {**tree, **model, "block": {"name": "prenorm", "ffn": ffn}})
    found = make(config, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return found


def part(**fields: object) -> dendritic.Dendritic:
    found = decode(dendritic.DendriticConfig, fields).dendritic(24, DIMS)
    reset(found, 0)
    torch.nn.init.normal_(found.branches.bias)
    return found


def filled(width: int = 3) -> Oscillating:
    wave = Oscillating(width, 1.0, 0.1)
    wave.reset()
    return wave


def test_an_oscillation_by_hand():
    wave = filled(1)
    for name, value in (("omega", 2.0), ("phi", 0.5), ("baseline", -0.25)):
        torch.nn.init.constant_(getattr(wave, name), value)
    want = math.sin(2 * 0.7 + 0.5) * math.tanh(0.7) - 0.25
    assert wave(torch.tensor([0.7]), NOW).item() == pytest.approx(want)


def test_oscillations_start_as_published():
    wave = Oscillating(20_000, 1.0, 0.1)
    torch.manual_seed(0)
    wave.reset()
    assert (wave.omega.mean().item(), wave.omega.std().item()) == pytest.approx((1, 0.1), abs=3e-3)
    assert (wave.phi.mean().item(), wave.phi.std().item()) == pytest.approx((0, 0.1), abs=3e-3)
    assert not wave.baseline.any()


def test_fixed_oscillations_are_buffers_at_one_and_zero():
    model = build({"name": "mlp", "activation": {"name": "oscillating", "learned": False}})
    wave = model.trunk.stack.blocks[0].ffn.activation
    assert not list(wave.parameters())
    assert wave.omega.eq(1).all()
    assert torch.cat([wave.phi, wave.baseline]).eq(0).all()
    assert "trunk.stack.blocks.0.ffn.activation.omega" in model.state_dict()


def test_the_gradient_of_an_oscillation_is_its_derivative():
    wave = filled().double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    inputs = (x, wave.omega, wave.phi, wave.baseline)
    assert torch.autograd.gradcheck(lambda *_: wave(x, NOW), inputs)


def by_loops(soma: dendritic.Dendritic, x: Tensor, lateral: Tensor | None) -> Tensor:
    """One row at a time, one compartment at a time, from the formulas."""
    count, width = soma.branches.compartments, 24
    size = -(-10 // count)
    weight = soma.branches.weight.view(count, width, size)
    bias = soma.branches.bias.view(count, width)
    out = []
    for row in x:
        padded = torch.cat([row, row.new_zeros(count * size - 10)])
        u = [
            torch.tanh(weight[k] @ padded[k * size : (k + 1) * size] + bias[k])
            for k in range(count)
        ]
        v = []
        if lateral is not None:
            v = [sum(lateral[k, to] * u[k] for k in range(count)) for to in range(count)]
        if isinstance(soma.coupling, dendritic.Nonlinear):
            v = [torch.tanh(one) for one in v]
        out.append(soma.soma.weight @ torch.cat([*u, *v]) + soma.soma.bias)
    return torch.stack(out)


@pytest.mark.parametrize("compartments", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("lateral", ["dense", "off", "nonlinear", "ring"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dendrites_by_loops(compartments, lateral, mode):
    if lateral == "ring" and compartments < 3:
        pytest.skip("a ring takes three")
    soma = part(compartments=compartments, lateral=lateral).train(mode == "train")
    x = torch.randn(6, 10)
    matrix = None if soma.coupling is None else soma.coupling.matrix()
    torch.testing.assert_close(soma(x, NOW), by_loops(soma, x, matrix))


def test_a_ring_hears_itself_and_its_neighbours():
    ring = part(compartments=5, lateral="ring").coupling
    ring.weight.data = torch.tensor([[1.0] * 5, [2.0] * 5, [3.0] * 5])
    assert ring.matrix()[:, 0].tolist() == [2, 3, 0, 0, 1]  # v_0 from u_0, the next, the last
    with pytest.raises(ConfigError, match="ring takes 3 compartments or more, not 2"):
        part(compartments=2, lateral="ring")


def test_coupling_starts_as_half_the_identity_with_noise():
    coupling = dendritic.Coupling.among(200)
    reset(coupling, 0)
    weight = coupling.weight.detach()
    assert weight.diagonal().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (weight - 0.5 * torch.eye(200)).std().item() == pytest.approx(0.1, abs=0.002)


def test_folded_and_plain_have_the_same_gradients():
    soma = part(compartments=3, lateral="dense")
    x = torch.randn(dendritic.FOLD - 1, 10)
    found = []
    for mode in (True, False):
        soma.train(mode).zero_grad()
        soma(x, NOW).square().sum().backward()
        found.append([p.grad.clone() for p in soma.parameters()])
    for folded, plain in zip(*found, strict=True):
        torch.testing.assert_close(folded, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lateral", ["dense", "ring", "off"])
def test_settled_dendrites_are_equal_and_smaller(lateral):
    soma = part(compartments=4, lateral=lateral).eval()
    settled = soma.settled()
    x = torch.randn(3, 10)
    torch.testing.assert_close(settled(x, NOW), soma(x, NOW))
    assert settled.soma.weight.shape == (24, 4 * 24)
    assert settled.coupling is None


def test_coupling_that_is_not_linear_stays():
    soma = part(lateral="nonlinear").eval()
    assert soma.settled() is soma


def test_compartments_count_as_matrices_of_their_own():
    model = build({"name": "wiggle", "compartments": 3})
    name = "trunk.stack.blocks.0.ffn.up"
    assert splits(model)[f"{name}.branches.weight"] == (128, 128, 128)
    assert roles(model)[f"{name}.coupling.weight"] == "matrix"
    ring = build({"name": "wiggle", "compartments": 3, "lateral": "ring"})
    assert roles(ring)[f"{name}.coupling.weight"] == "vector"


def test_more_compartments_than_inputs_are_refused():
    with pytest.raises(ConfigError, match=r"compartments=33 is more than model.n_embd=32"):
        build({"name": "wiggle", "compartments": 33})


def test_the_soft_gate_lets_a_fifth_of_silence_through():
    rise = torch.tensor([0.0, 0.25, 1.0]) - 0.25
    assert Soft(5.0)(rise, NOW).tolist() == pytest.approx([0.2227, 0.5, 0.9770], abs=1e-4)


def test_the_hard_gate_is_zero_or_one_with_the_soft_ones_gradient():
    rise = torch.linspace(-0.7, 0.7, 101, requires_grad=True)
    passes = Hard(5.0)(rise, NOW)
    assert passes.unique().tolist() == [0, 1]
    assert torch.equal(passes, (rise > 0).float())
    (hard,) = torch.autograd.grad(passes.sum(), rise)
    (soft,) = torch.autograd.grad(Soft(5.0)(rise, NOW).sum(), rise)
    assert torch.equal(hard, soft)


def event(**fields: object) -> torch.nn.Module:
    return build({"name": "sparse_event", **fields}).trunk.stack.blocks[0].ffn.event


def test_events_by_formula():
    layer = event(threshold=0.4, slope=3.0)
    x = torch.randn(5, 128)
    a = torch.sigmoid(x @ layer.gate.weight.T + layer.gate.bias)
    inner = (x * torch.sigmoid(3 * (a - 0.4))) @ layer.transform.weight.T + layer.transform.bias
    wave = layer.activation
    want = torch.sin(wave.omega * inner + wave.phi) * torch.tanh(inner) + wave.baseline
    torch.testing.assert_close(layer(x, NOW), want)


def test_the_silent_share_is_counted_at_the_threshold_and_told_layer_by_layer():
    model = build({"name": "sparse_event", "threshold": 0.5})
    seen: list[Tensor] = []
    for block in model.trunk.stack.blocks:
        block.ffn.event.gate.register_forward_hook(lambda _m, _i, out: seen.append(out))
    now = at(IDS, listening=True)
    model.trunk(IDS, now)
    want = [(rise <= 0).float().mean().item() for rise in seen]  # sigmoid(0) is 0.5
    assert [share.item() for share in now.told["silent"]] == pytest.approx(want)
    assert 0.2 < want[0] < 0.8


def test_nothing_is_told_when_nobody_listens():
    now = at(IDS)
    build("wiggle").trunk(IDS, now)
    assert now.told is None


def test_what_is_told_survives_recomputation():
    model = build("wiggle")
    plain, again = (at(IDS, checkpoint=c, listening=True) for c in (False, True))
    model.trunk(IDS, plain)
    model.trunk(IDS, again).sum().backward()
    assert [t.item() for t in again.told["silent"]] == [t.item() for t in plain.told["silent"]]
    assert not any(share.requires_grad for share in again.told["silent"])


def test_a_steered_threshold_moves_toward_the_wanted_share_and_nothing_else_does():
    layer = event(gate="hard", silent=0.6)
    x = torch.randn(50, 128)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(200):
        now = at(IDS[:1])
        optimizer.zero_grad()
        layer(x, now)
        now.losses["silent"].backward()
        assert all(p.grad is None for n, p in layer.named_parameters() if n != "level.threshold")
        optimizer.step()
    now = at(IDS[:1], listening=True)
    layer(x, now)
    assert now.told["silent"][0].item() == pytest.approx(0.6, abs=0.02)


def test_two_ways_to_move_a_threshold_are_refused():
    with pytest.raises(ConfigError, match="both move the threshold"):
        event(learned=True, silent=0.3)


@pytest.mark.parametrize("weights", ["float32", "bf16", "int8"])
@pytest.mark.parametrize("gate", ["soft", "hard"])
@torch.no_grad()
def test_packed_for_decoding_it_gives_the_same(weights, gate):
    prepare(gathered)
    ffn = {"name": "wiggle", "gate": gate, "threshold": 0.5}
    model = build(ffn).eval()
    packed = pack(model, weights)
    transform = packed.trunk.stack.blocks[0].ffn.event.transform
    assert isinstance(transform, Gathered) == (gate == "hard")
    assert packed.trunk.stack.blocks[0].ffn.up.coupling is None
    got, want = packed(IDS[:1, :1]), model(IDS[:1, :1])
    # a hard gate may flip where weights are rounded
    error = {"float32": 1e-5, "bf16": 0.3, "int8": 0.5}[weights]
    assert (got - want).norm() <= error * want.norm()
