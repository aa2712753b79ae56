"""A search file: one wrong word stops it before any run, with its line."""

import json
from pathlib import Path

import pytest

from espalier.errors import ConfigError
from espalier.nn.norm.rms import RmsConfig
from espalier.search import goals
from espalier.search import plan as planning
from espalier.study.book import Book
from tests.search.synthetic import FILE, plan

pytestmark = pytest.mark.usefixtures("any_corpus")

RATE = "train.learning_rate: {low: 0.01, high: 0.5}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trials:", "trails:", r"search\.yaml:6: unknown field 'trails'.* Did you mean 'trials'"),
        ("learning_rate: {low", "lerning_rate: {low", r"search\.yaml:4: .*lerning_rate"),
        ("low: 0.01", "lwo: 0.01", r"search\.yaml:4: unknown field 'lwo'"),
        ("low: 0.01", "low: -1.0", r"search\.yaml:4: train\.learning_rate must be more than 0"),
        (RATE, "model.block.norm: [layer, rmz]", r"search\.yaml:4: .*Did you mean 'rms'"),
        ("strategy: random", "strategy: randon", "strategy.* Did you mean 'random'"),
        ("random", "{name: tpe, startip: 3}", r"search\.yaml:5: unknown field 'startip'"),
        ("-cpu", "-cpv", r"search\.yaml:2: no recipe named"),
        ("trials: 6", "objectives: [lost]", "objectives.0 must be"),
        ("trials: 6", "limits: {parameters: small}", "limits"),
        ("high: 0.5}", "high: 0.5}, seed.x: [1, 2]", "seed"),
        ("trials: 6", "trials: 0", "trials must be at least 1, got 0"),
    ],
)
def test_one_wrong_word_stops_it_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in FILE
    with pytest.raises(ConfigError, match=said):
        plan(tmp_path, FILE.replace(old, new, 1))


def test_an_override_cannot_make_one_value_of_a_searched_path(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(FILE, "utf-8")
    with pytest.raises(ConfigError, match=r"train\.learning_rate is varied"):
        planning.read(file, ["train.learning_rate=0.1"])


@pytest.mark.parametrize(
    ("space", "more", "override", "said"),
    [
        ("model.block.norm.eps: [1.0e-5, 1.0e-3]", "", "model.block.norm=rms", "norm.eps is"),
        ("model.block.norm: [layer, rms]", "", "model.block={norm: rms}", "block.norm is"),
        (RATE, "seeds: [1, 2, 3]\n", "seed=3", "seed is"),
    ],
)
def test_nor_can_an_override_of_what_holds_it_or_of_the_seeds(
    tmp_path: Path, space: str, more: str, override: str, said: str
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(FILE.replace(RATE, space) + more, "utf-8")
    with pytest.raises(ConfigError, match=f"{said} varied by the file"):
        planning.read(file, [override])


def test_a_field_of_what_is_searched_may_be_fixed(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(FILE.replace(RATE, "model.block.norm: [layer, rms]"), "utf-8")
    made = planning.read(file, ["model.block.norm.eps=1.0e-3"])
    (trial,) = made.trials({"model.block.norm": "rms"})
    assert trial.experiment.model.block.norm == RmsConfig(eps=1e-3)


def test_the_baselines_own_values_are_known_where_the_space_has_them(tmp_path: Path) -> None:
    space = "model.block.norm: [rms, {name: layer}], model.n_embd: [8, 32], model.n_head: [1, 2]"
    made = plan(tmp_path, FILE.replace(RATE, space))
    assert made.problem.start == {
        "model.block.norm": {"name": "layer"},
        "model.n_head": 2,
        "train.weight_decay": 0.1,
    }


def test_a_path_for_each_layer_gives_every_layer_an_entry(tmp_path: Path) -> None:
    each = "model.layers.*.block.ffn.width: [32, 64]"
    made = plan(tmp_path, FILE.replace(RATE, each))
    assert list(made.problem.flat)[:2] == [
        "model.layers.0.block.ffn.width",
        "model.layers.1.block.ffn.width",
    ]
    trial, *_ = made.trials({"model.layers.1.block.ffn.width": 32})
    layers = trial.experiment.model.layers
    assert layers is not None
    assert [layer.block for layer in layers] == [{}, {"ffn": {"width": 32}}]


def test_a_limit_may_be_a_number_or_what_the_baseline_has(tmp_path: Path) -> None:
    made = plan(tmp_path, FILE + "limits: {parameters: baseline, flops: 1.0e12, energy: 2.0}\n")
    # 2 layers of 12 * 16^2, 5 norms of 16, tables of 65 + 8 rows of 16
    assert made.limits == {"parameters": 6144 + 80 + 1168, "flops": 1e12, "energy": 2.0}


def test_latency_is_the_median_record_without_the_first(tmp_path: Path) -> None:
    made, book = plan(tmp_path), Book(tmp_path)
    (trial,) = made.trials({})
    run = book.run(trial)
    (run / "results").mkdir(parents=True)
    summary = {"best_val_loss": 2.0, "seconds": 3.0, "step": 6}
    (run / "results" / "train.json").write_text(json.dumps(summary), "utf-8")
    assert goals.measured(book, [trial], ["latency"]) == {"loss": 2.0, "latency": 500.0}
    records = [{"kind": "train", "step": i, "ms": ms} for i, ms in enumerate([900, 20, 30, 100])]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    assert goals.measured(book, [trial], ["latency"]) == {"loss": 2.0, "latency": 30}


def test_energy_is_arithmetic_and_weights_at_published_prices(tmp_path: Path) -> None:
    made = plan(tmp_path, FILE + "objectives: [loss, energy, memory]\n".replace("memory", "flops"))
    (trial,) = made.trials({})
    found = made.count(trial)[1]
    products = 6144 + 65 * 16  # weights in matrix products: layers, and the tied head
    scores = 2 * 2 * 8 * 16  # per layer q k^T and weights times v over a window of 8
    joules = (products + scores) * 4.6e-12 + products * 4 * 1.3e-9 / 8
    assert found["energy"] == pytest.approx(joules)
