"""Optuna's samplers, asked and told; skipped where Optuna is not installed."""

from pathlib import Path
from typing import Any

import pytest

from espalier.errors import ConfigError, MachineError
from espalier.search import sampling
from tests.search.synthetic import FILE, Instant, bowl, go, plan, proposals, session

optuna = pytest.importorskip("optuna", reason="optuna is in the search extra")
pytestmark = pytest.mark.usefixtures("any_corpus")

INSIDE = FILE.replace("train.min_lr: 0.0", "train.min_lr: 0.0, train.learning_rate: 0.4")


def text(strategy: str, trials: int = 12) -> str:
    found = FILE.replace("strategy: random", f"strategy: {strategy}")
    return found.replace("trials: 6", f"trials: {trials}")


def need(strategy: str) -> None:
    if strategy == "cmaes":
        pytest.importorskip("cmaes", reason="cmaes is in the search extra")
    if strategy == "gp":
        pytest.importorskip("scipy", reason="scipy is in the search extra")


@pytest.mark.parametrize("strategy", ["tpe", "gp", "cmaes", "nsga2"])
def test_an_interrupted_search_asks_for_the_same_as_one_that_never_stopped(
    tmp_path: Path, strategy: str
) -> None:
    need(strategy)
    made = plan(tmp_path, text(f"{{name: {strategy}}}", 7))
    whole = session(made, tmp_path / "whole")
    go(whole)
    go(session(made, tmp_path / "pieces"), 3)
    last = session(made, tmp_path / "pieces")
    go(last)
    assert proposals(last) == proposals(whole)
    assert last.cut is None


@pytest.mark.parametrize("strategy", ["{name: tpe, startup: 5}", "{name: gp, startup: 5}"])
def test_a_model_of_the_results_does_better_than_the_startup(tmp_path: Path, strategy: str) -> None:
    need("gp")
    made = session(plan(tmp_path, text(strategy, 25)), tmp_path / "study")
    go(made)
    losses = [made.known[number]["loss"] for number in sorted(made.known)]
    assert min(losses[6:]) < min(losses[:6])


def test_a_baseline_inside_the_space_is_the_first_point_that_the_sampler_knows(
    tmp_path: Path,
) -> None:
    inside = INSIDE.replace("train.min_lr", "train.weight_decay: 0.5, train.min_lr")
    made = session(plan(tmp_path, inside.replace("random", "tpe")), tmp_path / "study")
    go(made, 1)
    start = {"train.learning_rate": 0.4, "train.weight_decay": 0.5}
    assert proposals(made)[0] == start
    assert made.strategy.study.trials[0].params == start  # type: ignore[attr-defined]
    (baseline,) = plan(tmp_path, inside).trials({})
    assert made.asked[0].keys == [baseline.key]


def test_two_objectives_make_a_front_from_small_and_bad_to_large_and_good(tmp_path: Path) -> None:
    file = text("{name: nsga2, population: 6}", 20).replace(
        "train.weight_decay: {low: 0.01, high: 0.9}", "model.n_layer: {low: 1, high: 4}"
    )
    made = plan(tmp_path, file + "objectives: [loss, parameters]\n")

    def deeper_is_better(trial: Any) -> dict[str, Any]:
        loss = 5.0 - trial.experiment.model.n_layer + trial.experiment.train.learning_rate
        return bowl(trial) | {"val_loss": loss, "best_val_loss": loss}

    search = session(made, tmp_path / "study", deeper_is_better)
    go(search)
    front = [search.known[number] for number in search.front]
    assert len(front) > 1
    assert [one["loss"] for one in front] == sorted(one["loss"] for one in front)
    sizes = [one["parameters"] for one in front]
    assert sizes == sorted(sizes, reverse=True)


def test_every_kind_of_value_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = text("tpe", 8).replace(
        "train.weight_decay: {low: 0.01, high: 0.9}",
        "model.block.ffn: [mlp, {name: glu, width: 32}], model.block_size: {low: 8, high: 20, "
        "step: 4}, train.grad_clip: {low: 0.5, high: 4.0, step: 2.0, log: true}",
    )
    made = session(plan(tmp_path, file), tmp_path / "study")
    go(made)
    for one in proposals(made)[1:]:
        assert one["model.block.ffn"] in ["mlp", {"name": "glu", "width": 32}]
        assert one["model.block_size"] in [8, 12, 16, 20]
        assert one["train.grad_clip"] in [0.5, 1.0, 2.0, 4.0]


def test_the_journal_opens_as_an_optuna_study(tmp_path: Path) -> None:
    made = session(plan(tmp_path, text("tpe", 4)), tmp_path / "study")
    go(made)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = tmp_path / "study" / sampling.JOURNAL
    study = optuna.load_study(
        study_name=sampling.NAME, storage=JournalStorage(JournalFileBackend(str(file)))
    )
    told = [one for one in study.trials if one.state.is_finished()]
    assert len(told) == 3  # the baseline lies outside this space
    assert isinstance(made.pool, Instant)


def test_cmaes_takes_one_objective(tmp_path: Path) -> None:
    need("cmaes")
    with pytest.raises(ConfigError, match="cmaes has one objective"):
        plan(tmp_path, text("cmaes") + "objectives: [loss, parameters]\n")


def test_without_optuna_it_is_said_which_extra_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MachineError, match=r"espalier\[search\]"):
        plan(tmp_path, text("tpe"))
