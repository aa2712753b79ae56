"""A search keeps count, repeats nothing, and goes on as if it had never stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from espalier.search.log import Told
from espalier.study.book import COMPLETE, Book
from espalier.tree import read_yaml
from tests.search.synthetic import FILE, Instant, bowl, go, plan, proposals, session

pytestmark = pytest.mark.usefixtures("any_corpus")

GREEDY = """
recipe: shakespeare-char-cpu
set: {data.corpus: data/x, train.min_lr: 0.0, train.learning_rate: 0.3, train.weight_decay: 0.6}
space:
  train.learning_rate: {low: 0.1, high: 1.0, step: 0.1}
  train.weight_decay: {low: 0.0, high: 1.0, step: 0.1}
strategy: greedy
trials: 30
"""
HALVING = FILE.replace("strategy: random", "strategy: {name: halving, least: 100, eta: 3}")
RENEWED = {  # the same proposals, of other experiments
    "corpus": FILE.replace("data/x", "data/y"),
    "length": FILE.replace("set: {", "set: {train.max_iters: 3000, "),
    "seeds": FILE + "seeds: [1]\n",
    "recipe": FILE.replace("shakespeare-char-cpu", "shakespeare-char"),
}


def ran(made: Any) -> list[str]:
    assert isinstance(made.pool, Instant)
    return made.pool.ran


def test_as_many_configurations_are_tried_as_the_file_says(tmp_path: Path) -> None:
    made = session(plan(tmp_path), tmp_path / "study")
    go(made)
    assert len(ran(made)) == len(set(ran(made))) == 6
    assert proposals(made)[0] == {}
    assert made.reason == "6 trials"
    losses = {number: found["loss"] for number, found in made.known.items()}
    assert made.best == min(losses, key=losses.__getitem__)


@pytest.mark.parametrize("text", [FILE, GREEDY, HALVING])
def test_an_interrupted_search_makes_the_same_proposals_as_one_that_never_stopped(
    tmp_path: Path, text: str
) -> None:
    made = plan(tmp_path, text)
    whole = session(made, tmp_path / "whole")
    go(whole)
    for most in (2, 1, 1, 0):
        go(session(made, tmp_path / "pieces"), most)
    last = session(made, tmp_path / "pieces")
    go(last)
    assert proposals(last) == proposals(whole)
    assert last.best == whole.best
    assert last.cut is None
    records = Book(tmp_path / "pieces").records()
    complete = [one["key"] for one in records if one["state"] == COMPLETE]
    assert len(complete) == len(set(complete)) == len(ran(whole))


def test_finished_runs_are_not_repeated_and_more_trials_only_add(tmp_path: Path) -> None:
    go(session(plan(tmp_path), tmp_path / "study"))
    again = session(plan(tmp_path), tmp_path / "study")
    go(again)
    assert ran(again) == []
    more = session(plan(tmp_path, FILE.replace("trials: 6", "trials: 8")), tmp_path / "study")
    go(more)
    assert len(ran(more)) == 2
    assert proposals(more)[:6] == proposals(again)


def test_a_file_that_asks_for_something_else_goes_on_from_there_with_its_runs(
    tmp_path: Path,
) -> None:
    first = session(plan(tmp_path), tmp_path / "study")
    go(first)
    changed = plan(tmp_path, FILE.replace("high: 0.5", "high: 0.4"))
    other = session(changed, tmp_path / "study")
    go(other)
    assert other.cut == 1  # the baseline is the same
    assert len(ran(other)) == 5
    assert len(proposals(other)) == 6


@pytest.mark.parametrize("what", RENEWED)
def test_other_experiments_behind_the_same_proposals_are_trained_anew(
    tmp_path: Path, what: str
) -> None:
    go(session(plan(tmp_path), tmp_path / "study"))
    made = session(plan(tmp_path, RENEWED[what]), tmp_path / "study")
    go(made)
    assert made.cut == 0
    assert len(ran(made)) == 6
    assert [one.keys[0] for one in made.asked] == ran(made)


def test_a_limit_set_later_refuses_what_was_trained_before(tmp_path: Path) -> None:
    text = FILE.replace(
        "train.weight_decay: {low: 0.01, high: 0.9}", "model.n_layer: {low: 1, high: 4}"
    )
    go(session(plan(tmp_path, text), tmp_path / "study"))
    made = session(plan(tmp_path, text + "limits: {parameters: baseline}\n"), tmp_path / "study")
    go(made)
    depths = [one.proposal.settings.get("model.n_layer", 2) for one in made.asked if one.keys]
    assert max(depths) == 2


@pytest.mark.parametrize("more", ["limits: {flops: baseline}\n", "objectives: [loss, flops]\n"])
def test_a_goal_that_the_record_knows_nothing_of_is_counted_of_the_runs_that_are_there(
    tmp_path: Path, more: str
) -> None:
    go(session(plan(tmp_path), tmp_path / "study"))
    made = session(plan(tmp_path, FILE + more), tmp_path / "study")
    go(made)
    assert ran(made) == []
    assert all("flops" in found for found in made.known.values())


def test_a_run_that_is_gone_is_made_again(tmp_path: Path) -> None:
    made = plan(tmp_path)
    first = session(made, tmp_path / "study")
    go(first)
    key = first.asked[3].keys[0]
    (tmp_path / "study" / "runs" / key / "results" / "train.json").unlink()
    (tmp_path / "study" / "runs" / key / "results").rmdir()
    again = session(made, tmp_path / "study")
    go(again)
    assert ran(again) == [key]
    assert proposals(again) == proposals(first)


def test_a_run_that_ended_unrecorded_is_recorded_once_by_the_next_call(tmp_path: Path) -> None:
    made = plan(tmp_path)
    go(session(made, tmp_path / "study"))
    for name in ("study.jsonl", "search.jsonl"):
        file = tmp_path / "study" / name
        lines = file.read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:-1]), "utf-8")
    last = session(made, tmp_path / "study")
    go(last)
    assert ran(last) == []
    states = [one["state"] for one in Book(tmp_path / "study").records()]
    assert states == [COMPLETE] * 6


def test_a_torn_last_line_of_the_record_is_dropped(tmp_path: Path) -> None:
    made = plan(tmp_path)
    go(session(made, tmp_path / "study"), 3)
    with (tmp_path / "study" / "search.jsonl").open("a") as stream:
        stream.write('{"told": 2, "fou')
    last = session(made, tmp_path / "study")
    go(last)
    assert len(last.known) == 6
    for line in (tmp_path / "study" / "search.jsonl").read_text("utf-8").splitlines():
        json.loads(line)


def test_what_is_over_a_limit_is_never_trained_and_does_not_count(tmp_path: Path) -> None:
    text = FILE.replace(
        "train.weight_decay: {low: 0.01, high: 0.9}", "model.n_layer: {low: 1, high: 4}"
    )
    text += "limits: {parameters: baseline}\n"
    made = session(plan(tmp_path, text), tmp_path / "study")
    told = [one for one in go(made) if isinstance(one, Told)]
    refused = [one for one in told if one.found is None]
    assert refused
    assert all("above the limit of" in one.why for one in refused)
    depths = [one.proposal.settings.get("model.n_layer", 2) for one in made.asked if one.keys]
    assert max(depths) == 2
    assert len(ran(made)) == 6


def test_sizes_that_fit_no_model_are_told_and_passed_over(tmp_path: Path) -> None:
    text = FILE.replace("train.weight_decay: {low: 0.01, high: 0.9}", "model.n_head: [2, 3]")
    made = session(plan(tmp_path, text), tmp_path / "study")
    told = [one for one in go(made) if isinstance(one, Told)]
    assert any("must divide" in one.why for one in told)
    assert {one.proposal.settings.get("model.n_head", 2) for one in made.asked if one.keys} == {2}


def test_seeds_are_replicates_and_their_mean_counts(tmp_path: Path) -> None:
    text = FILE.replace("trials: 6", "trials: 2") + "seeds: [1, 2, 3]\n"

    def by_seed(trial: Any) -> dict[str, Any]:
        return {"val_loss": float(trial.seed), "best_val_loss": float(trial.seed), "seconds": 1.0}

    made = session(plan(tmp_path, text), tmp_path / "study", by_seed)
    go(made)
    assert len(ran(made)) == 6
    assert {found["loss"] for found in made.known.values()} == {2.0}


def test_a_trial_that_fails_by_its_own_fault_is_told_and_the_search_goes_on(tmp_path: Path) -> None:
    def fragile(trial: Any) -> dict[str, Any] | None:
        return None if trial.experiment.train.learning_rate > 0.3 else bowl(trial)

    made = session(plan(tmp_path), tmp_path / "study", fragile)
    told = [one for one in go(made) if isinstance(one, Told)]
    assert {one.why for one in told} == {"", "it diverged"}
    assert made.reason == "6 trials"


def test_a_small_space_ends_the_search_when_it_holds_nothing_new(tmp_path: Path) -> None:
    text = FILE.replace("{low: 0.01, high: 0.5}", "[0.1, 0.2]")
    text = text.replace("{low: 0.01, high: 0.9}", "[0.1, 0.2]").replace("trials: 6", "trials: 50")
    made = session(plan(tmp_path, text), tmp_path / "study")
    go(made)
    assert len(ran(made)) == 1 + 4  # the baseline's learning rate is on no list
    assert made.reason == "the space holds nothing new"


def test_a_greedy_search_out_of_trials_tells_the_round_it_was_in(tmp_path: Path) -> None:
    text = GREEDY.replace("trials: 30", "trials: 7").replace(
        "space:", "space:\n  model.block.ffn: [mlp, {name: glu, width: 336}]"
    )
    made = session(plan(tmp_path, text), tmp_path / "study")
    go(made)
    tree = read_yaml(tmp_path / "study" / "iterations.yaml").tree
    assert tree["stop_reason"] == "7 trials"
    first, last = tree["iterations"]
    assert (first["action"], last["action"]) == ("step", "not finished")
    assert (len(first["candidates"]), len(last["candidates"])) == (5, 1)
    assert first["candidates"][0]["value"] == {"name": "glu", "width": 336}


def test_greedy_walks_down_the_bowl_and_writes_its_way(tmp_path: Path) -> None:
    made = session(plan(tmp_path, GREEDY), tmp_path / "study")
    go(made)
    assert made.best is not None
    best = made.asked[made.best].proposal.settings
    assert best == pytest.approx({"train.learning_rate": 0.1, "train.weight_decay": 0.3})
    assert made.reason == "no candidate is better"
    text = (tmp_path / "study" / "iterations.yaml").read_text("utf-8")
    assert "stop_reason: no candidate is better" in text
    assert text.count("action: step") == 5  # 0.3 to 0.1 and 0.6 to 0.3, a tenth at a time
    assert text.count("action: stop") == 1
