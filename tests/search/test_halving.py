"""ASHA's rule: of a rung's results the best 1/eta go on, as soon as they are known."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espalier.commands.search import _forecast, _keep_best
from espalier.errors import ConfigError
from espalier.experiment import load
from espalier.search.log import trained
from espalier.search.plan import Plan
from espalier.search.slots import Proposal
from espalier.search.strategy.halving import Halving, HalvingConfig, rungs
from tests.search.synthetic import FILE, bowl, go, plan, proposals, session

pytestmark = pytest.mark.usefixtures("any_corpus")

TEXT = FILE.replace("strategy: random", "strategy: {name: halving, least: 100, eta: 3}")
TEN = TEXT.replace("trials: 6", "trials: 10")
DECAY = "train.weight_decay: {low: 0.01, high: 0.9}"
TOKENS = 12 * 8  # of an update: batch_size * block_size


def halving(made: Plan) -> Halving:
    config = made.search.strategy
    assert isinstance(config, HalvingConfig)
    return config.build(made.problem)


def longer_is_better(trial: Any) -> dict[str, Any]:
    """The bowl, higher by the hundredth part of what is not trained."""
    missing = 2000 * TOKENS - (trial.experiment.train.stop.tokens or 2000 * TOKENS)
    loss = bowl(trial)["val_loss"] + missing / (200_000 * TOKENS)
    return bowl(trial) | {"val_loss": loss, "best_val_loss": loss}


def ask(strategy: Halving, left: int = 99) -> Proposal:
    one = strategy.ask(left)
    assert one is not None
    return one


def test_rungs_end_after_least_updates_and_eta_times_as_many(tmp_path: Path) -> None:
    baseline = plan(tmp_path, TEXT).problem.baseline  # of 2,000 updates
    assert rungs(baseline, 100, 3) == [100 * TOKENS, 300 * TOKENS, 900 * TOKENS, None]
    assert rungs(baseline, 700, 3) == [700 * TOKENS, None]


def test_one_of_three_is_promoted_and_no_more(tmp_path: Path) -> None:
    strategy = halving(plan(tmp_path, TEXT))
    assert "train.stop.tokens" not in ask(strategy).settings  # the baseline, whole
    made = [ask(strategy) for _ in range(3)]
    assert {one.settings["train.stop.tokens"] for one in made} == {100 * TOKENS}
    strategy.tell(1, {"loss": 2.0})
    strategy.tell(2, {"loss": 1.5})
    assert ask(strategy).after is None  # two results: 2 // 3 = 0 go on
    strategy.tell(3, {"loss": 1.8})
    promoted = ask(strategy)
    assert (promoted.after, promoted.settings["train.stop.tokens"]) == (2, 300 * TOKENS)
    own = dict(made[1].settings)
    assert promoted.settings == own | {"train.stop.tokens": 300 * TOKENS}
    assert ask(strategy).after is None  # three results: only one goes on


def test_what_comes_in_later_and_is_better_is_promoted_too(tmp_path: Path) -> None:
    strategy = halving(plan(tmp_path, TEXT))
    for _ in range(7):
        ask(strategy)
    for number, loss in enumerate([2.0, 1.5, 1.8], start=1):
        strategy.tell(number, {"loss": loss})
    assert ask(strategy).after == 2
    for number, loss in enumerate([1.4, 1.3, 1.2], start=4):
        strategy.tell(number, {"loss": loss})
    # of six, two: 1.2 (6) and 1.3 (5); 1.5 (2) went on before, and stays
    assert [ask(strategy).after for _ in range(3)] == [6, 5, None]


def test_higher_rungs_go_first_and_the_last_is_the_whole_training(tmp_path: Path) -> None:
    strategy = halving(plan(tmp_path, TEXT.replace("least: 100", "least: 300")))
    for _ in range(10):
        ask(strategy)
    for number in range(1, 10):
        strategy.tell(number, {"loss": 1 + number / 10})
    assert [ask(strategy).after for _ in range(3)] == [1, 2, 3]  # numbers 10, 11, 12
    for number in (10, 11, 12):
        strategy.tell(number, {"loss": 1 / number})
    whole = ask(strategy)
    assert whole.after == 12
    assert "train.stop.tokens" not in whole.settings


def test_what_failed_is_not_promoted_and_counts_for_nothing(tmp_path: Path) -> None:
    strategy = halving(plan(tmp_path, TEXT))
    for _ in range(4):
        ask(strategy)
    for number, found in enumerate([None, {"loss": 1.0}, {"loss": 1.1}], start=1):
        strategy.tell(number, found)
    assert ask(strategy).after is None


def test_when_nothing_more_may_begin_the_best_goes_on_until_it_is_trained_whole(
    tmp_path: Path,
) -> None:
    made = session(plan(tmp_path, TEN), tmp_path / "study", longer_is_better)
    go(made)
    updates = [one.get("train.stop.tokens", 2000 * TOKENS) // TOKENS for one in proposals(made)]
    assert [updates.count(n) for n in (100, 300, 900, 2000)] == [9, 3, 1, 2]
    assert updates[0] == updates[-1] == 2000  # the baseline, and the one that was the best
    assert made.best == len(updates) - 1


def test_what_fails_on_its_way_up_leaves_its_place_to_the_next_best(tmp_path: Path) -> None:
    strategy = halving(plan(tmp_path, TEXT.replace("least: 100", "least: 700")))
    for _ in range(3):
        ask(strategy)
    for number, loss in enumerate([3.0, 2.0, 1.0]):
        strategy.tell(number, {"loss": loss})
    assert ask(strategy, 0).after == 2
    assert strategy.ask(0) is None  # that one is under way
    strategy.tell(3, None)
    assert ask(strategy, 0).after == 1


def test_a_baseline_that_nothing_trained_whole_beats_is_the_best(tmp_path: Path) -> None:
    strategy = halving(plan(tmp_path, TEXT.replace("least: 100", "least: 700")))
    for _ in range(3):
        ask(strategy)
    strategy.tell(1, {"loss": 2.0})
    assert strategy.chosen == 1  # nothing is trained whole yet
    strategy.tell(0, {"loss": 1.5})
    strategy.tell(2, {"loss": 1.4})
    assert strategy.chosen == 0  # 1.4 is of another length
    assert ask(strategy, 0).after == 2
    strategy.tell(3, {"loss": 1.3})
    assert strategy.chosen == 3


def test_more_trials_go_on_behind_what_was_trained_whole(tmp_path: Path) -> None:
    first = session(plan(tmp_path, TEN), tmp_path / "study", longer_is_better)
    go(first)
    text = TEN.replace("trials: 10", "trials: 12")
    more = session(plan(tmp_path, text), tmp_path / "study", longer_is_better)
    go(more)
    assert more.cut is None
    assert proposals(more)[: len(proposals(first))] == proposals(first)


def test_a_search_that_finds_nothing_new_still_trains_its_best_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.search.session.MISSES", 2)
    text = TEN.replace(DECAY, "model.n_layer: {low: 1, high: 4}")
    text = text.replace("trials: 10", "trials: 99\nseed: 1") + "limits: {parameters: baseline}\n"
    made = session(plan(tmp_path, text), tmp_path / "study", longer_is_better)
    go(made)
    assert made.reason == "2 proposals in a row were nothing new"
    assert made.asked[-1].proposal.after is not None
    assert "train.stop.tokens" not in proposals(made)[-1]


def test_the_forecast_has_one_experiment_on_every_rung(tmp_path: Path) -> None:
    made = plan(tmp_path, TEN)
    updates = 9 * 100 + 3 * 200 + 1 * 600 + 1 * 1100
    assert made.search.strategy.takes(made.problem, 10) == pytest.approx(1 + updates / 2000)
    assert made.search.strategy.takes(made.problem, 1) == 1


def test_of_an_interrupted_search_what_has_ended_is_taken_off_rung_by_rung(tmp_path: Path) -> None:
    made = session(plan(tmp_path, TEN), tmp_path / "study", longer_is_better)
    go(made, most=5)
    entries = made.log.entries()
    share = partial(made.plan.search.strategy.share, made.plan.problem)
    # three of 100 updates, and the best of them went on to 300; a whole training has 2,000
    assert trained(entries, share) == pytest.approx((3 * 100 + 200) / 2000)
    where: Any = SimpleNamespace(most=1, room={})
    ahead = _forecast(made.plan, made.book, where)
    # 2.6 whole trainings in all without 1.25, of which the baseline took a second: two runs
    assert (ahead["done"], ahead["seconds"]) == (1, 2.0)


def test_the_best_as_a_recipe_has_no_stop_and_says_what_was_measured(tmp_path: Path) -> None:
    def only_short(trial: Any) -> dict[str, Any] | None:
        return bowl(trial) if trial.experiment.train.stop.tokens else None

    made = session(plan(tmp_path, TEXT), tmp_path / "study", only_short)
    go(made)
    assert made.best is not None
    short = made.asked[made.best].proposal.settings
    file = _keep_best(made, made.best)
    assert f"# measured after {short['train.stop.tokens']:,} tokens" in file.read_text("utf-8")
    whole = {path: value for path, value in short.items() if path != "train.stop.tokens"}
    assert load(str(file)) == made.plan.trials(whole)[0].experiment


def test_a_promoted_trial_begins_from_its_own_runs_files(tmp_path: Path) -> None:
    def with_files(trial: Any) -> dict[str, Any]:
        run = tmp_path / "study" / "runs" / trial.key
        point = run / "checkpoints" / "step-00000100"
        if not point.is_dir():
            point.mkdir(parents=True)
            (point / "model.safetensors").write_text("weights", "utf-8")
        (run / "config.yaml").write_text("seed: 1", "utf-8") if not run.exists() else None
        (run / "config.yaml").touch()
        return bowl(trial)

    made = session(plan(tmp_path, TEXT), tmp_path / "study", with_files)
    go(made)
    promoted = next(one for one in made.asked if one.proposal.after is not None)
    before = made.asked[promoted.proposal.after or 0]
    runs = tmp_path / "study" / "runs"
    files = [
        runs / one.keys[0] / "checkpoints/step-00000100/model.safetensors"
        for one in (before, promoted)
    ]
    assert files[0].samefile(files[1])  # one copy on the disk
    config = (runs / promoted.keys[0] / "config.yaml").read_text("utf-8")
    assert f"tokens: {300 * TOKENS}" in config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace("least: 100", "least: 2000"), "a whole training has 2000 updates"),
        (TEXT.replace(DECAY, "data.batch_size: [6, 12]"), r"leave data\.batch_size out"),
        (TEXT + "objectives: [loss, parameters]\n", "halving has one objective"),
    ],
)
def test_what_has_no_equal_lengths_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(tmp_path, text)
