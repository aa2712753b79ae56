"""Units taken out of a model: removed is the same as masked, whatever part they are of."""

from typing import Any

import pytest
import torch

from espalier.compress.shrink import Gone, Where, dead, silence, sites, take_out
from espalier.nn.gpt import GPT, GPTConfig
from tests.contract.harness import IDS, Case, cases


def offering() -> list[Case]:
    """Every part and corner of the contract suite that has something to take out, found by name."""
    wanted = ("ffn.", "attention.", "block.", "grouped", "layers-that", "without", "position.alibi")
    return [case for case in cases() if case.label.startswith(wanted) and not case.native]


def every_third(model: GPT) -> Gone:
    return {
        site.where: range(0, site.units.count - 1, 3)
        for site in sites(model)
        if site.units.kind != "neuron"
    }


def remove(case: Case, gone: Gone, model: GPT) -> tuple[GPT, GPTConfig]:
    """Both ways, in fp64: what sums in another order differs by less than what is left out."""
    model = model.double().eval()
    smaller, config = take_out(model, case.config(), gone)
    silence(model, gone)
    torch.testing.assert_close(smaller(IDS), model(IDS), atol=1e-6, rtol=0)
    return smaller, config


@torch.no_grad()
@pytest.mark.parametrize("case", offering(), ids=lambda case: case.label)
def test_removed_is_masked_and_really_smaller(case: Case) -> None:
    model = case.perturbed()
    if not sites(model):
        pytest.skip("nothing in it can be taken out")
    before = sum(p.numel() for p in model.parameters())
    smaller, config = remove(case, every_third(model), model)
    assert sum(p.numel() for p in smaller.parameters()) < before
    shapes = {name: p.shape for name, p in config.build().named_parameters()}
    assert shapes == {name: p.shape for name, p in smaller.named_parameters()}


FIXED = {"name": "oscillating", "learned": False, "spread": 0.1}
SHARED = {"name": "spline", "points": 16}  # knots for all, as many as there are features
ACTIVATIONS = {
    "fixed numbers of features": {"ffn": {"name": "mlp", "activation": FIXED}},
    "those of an event": {"ffn": {"name": "wiggle", "activation": FIXED}},
    "those of branches": {"name": "cortical", "neurons": [2], "activation": FIXED},
    "shared numbers": {"ffn": {"name": "mlp", "width": 16, "activation": SHARED}},
    "those of a soma": {
        "name": "cortical",
        "neurons": [{"branches": 2, "branch_width": 4, "soma": 16}],
        "activation": SHARED,
    },
}


@torch.no_grad()
@pytest.mark.parametrize("block", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_loses_what_it_says_it_has_for_each_feature(block: dict[str, Any]) -> None:
    case = Case("activation", {"block": block})
    model = case.perturbed()
    gone = every_third(model)
    assert {"hidden"} <= {where.kind for where in gone}
    remove(case, gone, model)


def cortical(**fields: object) -> Case:
    neurons = [4, 2, {"branches": 3, "branch_width": 8}]
    return Case("cortical", {"block": {"name": "cortical", "neurons": neurons, **fields}})


@torch.no_grad()
def test_a_neuron_leaves_and_the_rest_are_as_loud_as_before() -> None:
    case = cortical()
    model = case.perturbed()
    _, config = remove(case, {Where(0, "", "neuron"): [1], Where(1, "", "neuron"): [0, 2]}, model)
    first, second = (block.model_dump()["neurons"] for block in config.blocks())
    assert [(n["branches"], n["branch_width"]) for n in first] == [(4, 8), (3, 8)]
    assert [(n["branches"], n["branch_width"]) for n in second] == [(2, 16)]


@torch.no_grad()
def test_branches_and_their_neuron_leave_together() -> None:
    case = cortical(nmda=True)
    gone = {
        Where(0, "", "neuron"): [0],
        Where(0, "", "branch", ("neuron", 1)): [1],
        Where(0, "", "hidden", ("neuron", 2)): [0, 5],
    }
    _, config = remove(case, gone, case.perturbed())
    assert config.blocks()[0].model_dump()["neurons"] == (
        {"branches": 1, "branch_width": 16, "soma": 96},
        {"branches": 3, "branch_width": 8, "soma": 94},
    )


def test_what_writes_nothing_is_dead() -> None:
    model = Case("mlp", {}).perturbed()
    with torch.no_grad():
        model.get_parameter("trunk.stack.blocks.1.ffn.down.weight")[:, [3, 7]] = 0
        model.get_parameter("trunk.stack.blocks.0.attention.out.weight")[:, 8:16] = 0
        model.get_parameter("trunk.stack.blocks.0.ffn.up.weight")[2] = (
            0  # reads nothing, still says
        )
    assert dead(model) == {Where(1, "ffn", "hidden"): [3, 7], Where(0, "attention", "head"): [1]}


def test_heads_with_biases_of_their_own_stay() -> None:
    model = Case("alibi", {"position": "alibi"}).build()
    assert {site.units.kind for site in sites(model)} == {"hidden"}


def test_equal_layers_are_written_down_together() -> None:
    case = Case("three", {"n_layer": 3})
    gone = {Where(layer, "ffn", "hidden"): [0] for layer in (0, 1)}
    _, config = take_out(case.build(), case.config(), gone)
    assert config.layers is not None
    found = [(layer.repeat, layer.block) for layer in config.layers]
    assert found == [(2, {"ffn": {"width": 127}}), (1, {})]
