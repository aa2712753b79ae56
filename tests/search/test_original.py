"""ReaLLM-Forge's flat baseline and flags, as a search of ours."""

from pathlib import Path
from typing import Any

import pytest

from espalier.config import encode
from espalier.errors import ConfigError
from espalier.search import original
from espalier.search import plan as planning
from espalier.search.plan import Plan
from espalier.search.strategy.greedy import GreedyConfig

pytestmark = pytest.mark.usefixtures("any_corpus")

BASELINE = """
dataset: shakespeare_char
n_layer: 3
n_head: 2
n_embd: 16
block_size: 8
mlp_size: 32
max_iters: 100
seed: 7
"""


def made(tmp_path: Path, flags: str, text: str = BASELINE) -> Plan:
    file = tmp_path / "baseline.yaml"
    file.write_text(text, "utf-8")
    name, words = original.words(str(file), flags.split())
    document, _ = original.document(planning.only(Path(name)), words)
    return planning.of(document)


def config(plan: Plan) -> GreedyConfig:
    strategy = plan.search.strategy
    assert isinstance(strategy, GreedyConfig)
    return strategy


def batch(plan: Plan) -> list[dict[str, Any]]:
    strategy = plan.search.strategy.build(plan.problem)
    strategy.ask(99)
    strategy.tell(0, {"loss": 2.0, "parameters": 100.0, "memory": 5.0, "latency": 1.0})
    found = []
    while (one := strategy.ask(99)) is not None:
        found.append(dict(one.note))
    return found


def test_a_flat_baseline_is_an_experiment_with_the_programs_defaults(tmp_path: Path) -> None:
    found = made(tmp_path, "--param_names n_layer").problem.baseline
    assert (found.model.n_layer, found.model.n_embd, found.train.max_iters) == (3, 16, 100)
    assert found.data.corpus == "data/shakespeare_char"
    assert encode(found)["model"]["block"]["norm"]["name"] == "rms"


def test_each_flag_has_its_equal(tmp_path: Path) -> None:
    flags = (
        "--param_names n_layer mlp_size --increments 1 16 --iterations 2 --num_iterations 5 "
        "--random_iterations 3 --max_iters_increase 50 --nlayer_dup_mode dup_each "
        "--efficiency_target iter --override_cfg dropout=0.1 n_head=4 --spawn_subprocess"
    )
    found = made(tmp_path, flags)
    own = config(found)
    assert (own.reach, own.rounds, own.longer) == (2, 5, 50)
    assert (own.duplicate, own.target) == ("each", "latency")
    assert found.search.seeds == (7, 8, 9)
    assert found.problem.baseline.model.dropout == 0.1
    assert found.problem.baseline.model.n_head == 4
    assert "latency" in found.wanted
    assert [(one["param"].rpartition(".")[2], one["value"]) for one in batch(found)] == [
        ("n_layer", 4),
        ("n_layer", 2),
        ("width", 48),
        ("width", 64),
        ("width", 16),
        ("width", 0),  # makes no model, and is passed over when its turn comes
    ]


def test_one_increment_serves_all_parameters(tmp_path: Path) -> None:
    found = made(tmp_path, "--param_names n_embd mlp_size --increments 8")
    assert [one["value"] for one in batch(found)] == [24, 8, 40, 24]


def test_lists_of_layers_go_on_cyclically_and_are_stepped_element_by_element(
    tmp_path: Path,
) -> None:
    text = BASELINE.replace("mlp_size: 32", "mlp_size_layerlist: [32, 64]")
    found = made(tmp_path, "--param_names n_layer mlp_size_layerlist --increments 16", text)
    layers = found.problem.baseline.model.layers
    assert layers is not None
    assert [layer.block["ffn"]["width"] for layer in layers] == [32, 64, 32]
    names = [(one["param"], one["value"]) for one in batch(found)]
    assert names[2:] == [
        ("model.layers[0].block.ffn.width", 48),
        ("model.layers[0].block.ffn.width", 16),
        ("model.layers[1].block.ffn.width", 80),
        ("model.layers[1].block.ffn.width", 48),
        ("model.layers[2].block.ffn.width", 48),
        ("model.layers[2].block.ffn.width", 16),
    ]


def test_its_own_spelling_of_the_file_is_understood() -> None:
    words = ["--param_names", "n_layer", "--orig_settings", "b.yaml", "--iterations", "2"]
    assert original.words(words[0], words[1:]) == (
        "b.yaml",
        ["--param_names", "n_layer", "--iterations", "2"],
    )
    assert original.words("--orig_settings=b.yaml", ["--iterations", "2"])[0] == "b.yaml"


@pytest.mark.parametrize(
    ("flags", "text", "said"),
    [
        ("", BASELINE, "--param_names"),
        ("--param_names n_laier", BASELINE, "n_laier: not in .* Did you mean 'n_layer'"),
        ("--param_names n_layer mlp_size --increments 1 2 3", BASELINE, "2 --param_names, but 3"),
        ("--param_names n_layer --efficiency_target speed", BASELINE, "efficiency_target"),
        ("--param_names dataset", BASELINE, "is no number to step from"),
        ("--param_names n_layer --iteration 2", BASELINE, "--iteration"),
        ("--param_names n_layer", BASELINE + "n_laier: 3\n", r"baseline\.yaml:10: n_laier"),
        ("--param_names n_layer", BASELINE + "x_layerlist: [3]\n", "not translated: x_layerlist"),
        ("--param_names n_layer", BASELINE + "dropout: [0, 0.1]\n", "dropout has several values"),
        ("--param_names n_layer", BASELINE.replace("n_head: 2", "n_head: 3"), "must divide"),
    ],
)
def test_what_has_no_equal_is_named_before_any_run(
    tmp_path: Path, flags: str, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        made(tmp_path, flags, text)
