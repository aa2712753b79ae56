"""What neurons have become: shares, redundancy and weights, worked by hand."""

import math

import pytest
import torch

from espalier import experiment
from espalier.analyze import competition, dendrites, neurons, oscillation, tables
from espalier.config import decode
from espalier.data.corpus import Corpus
from espalier.nn.activation.oscillating import Oscillating
from espalier.nn.ffn.dendritic import DendriticConfig
from espalier.nn.gpt import GPTConfig, make, sketch
from espalier.nn.slots import Dims, reset
from espalier.nn.state import at
from tests.train import tiny

DIMS = Dims(n_layer=1, n_embd=4, n_head=2, block_size=8, vocab_size=11)


@pytest.mark.parametrize(
    ("low", "high", "turns"),
    [
        # sin(x) tanh(x) is even: a minimum at 0, maxima where tan x = -sinh x cosh x: +-1.70
        (0.1, 1.6, 0),
        (-1.6, 1.6, 1),
        (-1.6, 1.8, 2),
        (-1.8, 1.8, 3),
    ],
)
def test_extrema_of_sin_x_tanh_x(low: float, high: float, turns: int) -> None:
    one = [torch.tensor([value]) for value in (1.0, 0.0, low, high)]
    assert oscillation.extrema(*one).item() == turns


def test_extrema_of_a_fast_sine() -> None:
    # 10 x = pi / 2 + k pi inside (10, 30): k = 3 ... 9
    one = [torch.tensor([value]) for value in (10.0, 0.0, 1.0, 3.0)]
    assert oscillation.extrema(*one).item() == 7


def test_the_share_that_oscillates_is_judged_by_what_each_neuron_saw() -> None:
    part = Oscillating(4, 1.0, 0.0)
    reset(part, 0)
    seen = oscillation.Range()
    seen.add(torch.tensor([[[0.1, -1.6, -1.6, -1.8]], [[1.6, 1.6, 1.8, 1.8]]]))
    found = oscillation.figures(part, seen)
    assert (found["monotone"], found["bumps"], found["oscillating"]) == (0.25, 0.25, 0.5)
    assert found["extrema"] == (0 + 1 + 2 + 3) / 4
    assert (found["omega"]["mean"], found["omega"]["deviation"]) == (1.0, 0.0)


def dendritic(lateral: str = "dense", compartments: int = 2) -> "torch.nn.Module":
    config = DendriticConfig(compartments=compartments, lateral=lateral)
    part = config.dendritic(3, DIMS)
    reset(part, 1)
    return part


def test_redundant_parameters_are_the_coupling_and_its_half_of_the_soma() -> None:
    # soma 3 x 12, half of it 18; L 2 x 2
    assert dendrites.figures(dendritic())["redundant"] == 18 + 4
    assert dendrites.figures(dendritic("nonlinear"))["redundant"] == 0
    # taps of a ring, 3 x 3; soma 3 x 18
    assert dendrites.figures(dendritic("ring", 3))["redundant"] == 9 + 27
    assert dendrites.figures(dendritic("off")) is None


def test_without_the_redundant_parameters_it_computes_the_same() -> None:
    part, x = dendritic(), torch.randn(5, 4)
    before = part(x, at(torch.zeros(1, 1)))
    with torch.no_grad():
        folded = part.folded()
        part.coupling.weight.zero_()
        part.soma.weight[:, 6:].zero_()
        part.soma.weight[:, :6] = folded
    torch.testing.assert_close(part(x, at(torch.zeros(1, 1))), before)


def test_wigglegpt_has_nearly_19_million_redundant_parameters() -> None:
    plan = experiment.load("wigglegpt", ["model.vocab_size=50304"])
    found = neurons.of_kind(sketch(plan.model), dendrites.Dendritic)
    total = sum(dendrites.redundant(part, part.coupling) for _, part in found)
    assert total == 18_874_368 + 4 * 2 * 2  # half of each soma, and the matrices themselves


def test_the_diagonals_share_and_what_coupling_adds() -> None:
    part = dendritic()
    with torch.no_grad():
        part.coupling.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 2.0]]))
        part.soma.weight[:, 6:].zero_()
    found = dendrites.figures(part)
    assert found["diagonal"] == pytest.approx(5 / 9)
    assert found["by_coupling"] == 0.0


def test_effective_rank() -> None:
    assert dendrites.effective_rank(torch.eye(3)) == pytest.approx(3)
    assert dendrites.effective_rank(torch.ones(3, 5)) == pytest.approx(1, abs=1e-4)
    # singular values 3 and 1: H(3/4, 1/4)
    wanted = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert dendrites.effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(wanted)


def test_weights_of_neurons_and_branches() -> None:
    tree = {"n_layer": 1, "n_embd": 4, "n_head": 2, "block_size": 8, "vocab_size": 11}
    shape = {"name": "cortical", "neurons": [2, 2]}
    model = make(decode(GPTConfig, {**tree, "block": shape}), seed=1)
    (layer,) = model.trunk.stack.blocks
    with torch.no_grad():
        layer.competition.copy_(torch.tensor([0.0, math.log(3)]))
        layer.neurons[0].soma.mix.weight.fill_(1.0)  # 4 x 4: two branches of two features
        layer.neurons[0].norm.weight.copy_(torch.tensor([3.0, 0.0, 4.0, 0.0]))
    first, second = competition.figures(layer)["neurons"]
    assert (first["weight"], second["share"]) == (pytest.approx(0.25), pytest.approx(1.5))
    assert first["branch_norms"] == pytest.approx([6.0, 8.0])  # sqrt(4 * 9), sqrt(4 * 16)
    assert first["even"] == pytest.approx(1 / (0.36**2 + 0.64**2))


def test_branches_through_a_mix_of_low_rank_are_as_loud_as_through_its_product() -> None:
    tree = {"n_layer": 1, "n_embd": 4, "n_head": 2, "block_size": 8, "vocab_size": 11}
    shape = {"name": "cortical", "neurons": [2], "linear": {"name": "low_rank", "rank": 1}}
    model = make(decode(GPTConfig, {**tree, "block": shape}), seed=1)
    (layer,) = model.trunk.stack.blocks
    with torch.no_grad():
        layer.neurons[0].soma.mix.weight.fill_(2.0)  # 4 x 1, times
        layer.neurons[0].soma.mix.inner.copy_(torch.tensor([[3.0, 0.0, 4.0, 0.0]]))
    (neuron,) = competition.figures(layer)["neurons"]
    assert neuron["branch_norms"] == pytest.approx([12.0, 16.0])  # sqrt(4 * 6^2), sqrt(4 * 8^2)


def test_features_that_never_move_are_dead() -> None:
    seen = oscillation.Range()
    seen.add(torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 3.0]]))
    assert neurons.still(seen) == {"features": 3, "dead": pytest.approx(2 / 3)}


def test_sections_follow_the_parts_of_the_model(tmp_path) -> None:
    text = Corpus.open(tiny.corpus(tmp_path / "corpus"))
    tree = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}
    plain = make(decode(GPTConfig, tree), seed=1)
    assert list(neurons.figures(plain, text.val, [0, 8], 8)) == ["activations"]
    hard = {"name": "prenorm", "ffn": {"name": "wiggle", "gate": "hard"}}
    wiggle = make(decode(GPTConfig, {**tree, "block": hard}), seed=1)
    found = neurons.figures(wiggle, text.val, [0, 8], 8)
    assert list(found) == ["oscillating", "activations", "dendrites", "told"]
    silent, active = found["told"]["silent"], found["told"]["active"]
    assert len(silent) == 2
    assert [s + a for s, a in zip(silent, active, strict=True)] == pytest.approx([1, 1])


def test_experts_that_no_token_chose_say_nothing(tmp_path) -> None:
    text = Corpus.open(tiny.corpus(tmp_path / "corpus"))
    experts = {"name": "moe", "experts": 32, "top": 1, "width": 4}  # of 16 tokens
    tree = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 8, "vocab_size": 11}
    block = {"name": "prenorm", "ffn": experts}
    model = make(decode(GPTConfig, {**tree, "block": block}), seed=1)
    found = neurons.figures(model, text.val, [0, 8], 8)["activations"]
    assert found["trunk.stack.blocks.0.ffn.experts.activation"]["features"] == 4


def test_figures_that_fewer_parts_tell_leave_cells_empty() -> None:
    found = tables.section("told", {"silent": [0.5], "balance": [1.0, 2.0]})
    assert found[1] == {"part": "number 1", "silent": None, "balance": 2.0}
