"""WiggleGPT's sizes, counted: the formulas of its parts, the table of its claims, its twins."""

import pytest

from espalier.config import refine
from espalier.cost.count import parameters
from espalier.cost.match import solve
from espalier.experiment import RECIPES, load, shipped
from espalier.nn.gpt import sketch

OFF = load("wigglegpt-bio-off").model
TWINS = [name for name in shipped() if name.startswith("wigglegpt") and "-iso-" in name]


def total(**model: object) -> int:
    return parameters(sketch(refine(OFF, model))).total


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        ("wigglegpt", 83_451_280),
        ("wigglegpt-nodendrites", 45_702_528),
        ("wigglegpt-oscillation-only", 26_809_728),
        ("wigglegpt-bio-off", 26_791_296),
    ],
)
def test_each_recipe_has_its_size(recipe, count):
    assert parameters(sketch(load(recipe).model)).total == count


def test_without_positions_it_is_what_the_original_reports():
    found = parameters(sketch(load("wigglegpt").model))
    assert found.total - found.by_part["trunk.position"] == 83_058_064


@pytest.mark.parametrize(
    ("compartments", "count"),
    [(1, 64_576_900), (2, 83_451_280), (3, 102_325_668), (4, 121_200_064), (8, 196_697_728)],
)
def test_compartments_at_the_published_width(compartments, count):
    ffn = {"name": "wiggle", "compartments": compartments}
    assert total(block={"ffn": ffn}) == count


@pytest.mark.parametrize(
    ("ffn", "millions"),
    [
        ({"name": "wiggle", "compartments": 1}, 576.8),
        ({"name": "wiggle", "compartments": 2}, 803.3),
        ({"name": "wiggle", "compartments": 3}, 1029.8),
        ({"name": "wiggle", "compartments": 4}, 1256.3),
        ({"name": "wiggle", "compartments": 8}, 2162.2),
        ("sparse_event", 350.3),
        ({"name": "mlp", "activation": "oscillating"}, 123.70),
        ("mlp", 123.59),
    ],
)
def test_the_sizes_of_gpt2_without_positions(ffn, millions):
    shape = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block": {"ffn": ffn}}
    assert (total(**shape) - 1024 * 768) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("c", [32, 36])
def test_dendrites_by_formula(k, c):
    """K cs H + K^2 + 2 K H^2 + 3 H, events 2 H^2 + 3 H, H C down; cs = C / K rounded up."""
    h, slice_, vocab, window = 4 * c, -(-c // k), 50304, 1024
    whole = k * slice_ * h + k * k + 2 * k * h * h + 3 * h + 2 * h * h + 3 * h + h * c
    rest = 4 * c * c + 2 * c
    ffn = {"name": "wiggle", "compartments": k}
    shape = {"n_layer": 3, "n_head": 4, "n_embd": c, "block": {"ffn": ffn}}
    assert total(**shape) == 3 * (whole + rest) + vocab * c + window * c + c


@pytest.mark.parametrize(
    ("lateral", "extra"), [("dense", 16), ("nonlinear", 16), ("ring", 12), ("off", -4 * 128 * 128)]
)
def test_couplings_by_formula(lateral, extra):
    ffn = {"name": "dendritic", "compartments": 4, "lateral": lateral}
    soma = 8 * 128 * 128 + extra
    shape = {"n_layer": 1, "n_head": 4, "n_embd": 32, "block": {"ffn": ffn}}
    rest = total(n_layer=1, n_head=4, n_embd=32) - 2 * 32 * 128
    assert total(**shape) == rest + 32 * 128 + soma + 3 * 128 + 128 * 32


@pytest.mark.parametrize("name", TWINS)
def test_twins_are_what_the_matching_solves(name):
    original, _, by = name.partition("-iso-")
    size = "wigglegpt-small" if name.startswith("wigglegpt-small") else "wigglegpt"
    found = solve(load(f"{size}-bio-off").model, load(original).model, by)
    assert load(name).model == found.config
    assert abs(found.residual) < 5e-4
    assert f"{found.cost:,}" in (RECIPES / f"{name}.yaml").read_text()
