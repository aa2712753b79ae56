"""ASHA's rule: of a rung's results the best 1/eta go on, as soon as they are known."""

from pathlib import Path
from typing import Any

import pytest

from espalier.errors import ConfigError
from espalier.search.plan import Plan
from espalier.search.slots import Proposal
from espalier.search.strategy.halving import Halving, HalvingConfig, rungs
from tests.search.synthetic import FILE, bowl, go, plan, proposals, session

pytestmark = pytest.mark.usefixtures("any_corpus")

TEXT = FILE.replace("strategy: random", "strategy: {name: halving, least: 100, eta: 3}")
DECAY = "train.weight_decay: {low: 0.01, high: 0.9}"
TOKENS = 12 * 8  # of an update: batch_size * block_size


def halving(made: Plan) -> Halving:
    config = made.search.strategy
    assert isinstance(config, HalvingConfig)
    return config.build(made.problem)


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


def test_when_nothing_more_may_begin_promotions_still_go_on(tmp_path: Path) -> None:
    made = session(plan(tmp_path, TEXT.replace("trials: 6", "trials: 10")), tmp_path / "study")
    go(made)
    begun = [one for one in proposals(made) if one.get("train.stop.tokens") == 100 * TOKENS]
    second = [one for one in proposals(made) if one.get("train.stop.tokens") == 300 * TOKENS]
    assert (len(begun), len(second)) == (9, 3)
    assert made.asked[made.best or 0].proposal.settings["train.stop.tokens"] == 900 * TOKENS


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
