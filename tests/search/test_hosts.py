"""An Optuna objective over a database: what workers on many hosts share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from espalier.errors import ConfigError, UserError
from espalier.search import hosts
from espalier.search import plan as planning
from espalier.study.book import Book
from espalier.study.plan import Trial
from tests.search.synthetic import FILE, an_hour_ago, bowl, plan

optuna = pytest.importorskip("optuna", reason="optuna is in the search extra")
pytestmark = pytest.mark.usefixtures("any_corpus")

TPE = FILE.replace("strategy: random", "strategy: tpe")


@pytest.fixture
def url(tmp_path: Path) -> str:
    pytest.importorskip("sqlalchemy", reason="sqlalchemy comes with optuna's RDB storage")
    return f"sqlite:///{tmp_path}/optuna.db"


class Trainer:
    """Trains by calling a function, and counts."""

    def __init__(self, book: Book):
        self.book = book
        self.ran: list[str] = []

    def __call__(self, trials: Sequence[Trial], lease: str) -> None:
        for trial in trials:
            if self.book.outcome(trial) is not None:
                continue
            self.ran.append(trial.key)
            results = self.book.run(trial) / "results"
            results.mkdir(parents=True)
            (results / "train.json").write_text(json.dumps(bowl(trial)), "utf-8")


def states(study: Any) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_two_workers_share_one_count_of_trials(tmp_path: Path, url: str) -> None:
    made, place = plan(tmp_path, TPE), tmp_path / "study"
    crew = [Trainer(Book(place)), Trainer(Book(place))]
    first = hosts.open_study(made, place, url)
    study = hosts.open_study(made, place, url)
    first.optimize(hosts.Objective(made, Book(place), crew[0]), n_trials=2)
    hosts.work(study, hosts.Objective(made, Book(place), crew[1]))
    assert (len(crew[0].ran), len(crew[1].ran)) == (2, 4)
    hosts.work(study, hosts.Objective(made, Book(place), crew[1]))
    assert states(study) == ["COMPLETE"] * 6


def test_a_configuration_that_is_finished_is_not_trained_again(tmp_path: Path, url: str) -> None:
    made, place = plan(tmp_path, TPE), tmp_path / "study"
    trainer = Trainer(Book(place))
    study = hosts.open_study(made, place, url)
    for _ in range(2):
        study.enqueue_trial({"train.learning_rate": 0.2, "train.weight_decay": 0.3})
    study.optimize(hosts.Objective(made, Book(place), trainer), n_trials=2)
    assert len(trainer.ran) == 1
    assert [trial.values for trial in study.trials] == [[pytest.approx(1.01)]] * 2


def test_what_makes_no_model_is_pruned_with_its_reason(tmp_path: Path, url: str) -> None:
    text = TPE.replace("train.weight_decay: {low: 0.01, high: 0.9}", "model.n_head: [2, 3]")
    made, place = plan(tmp_path, text), tmp_path / "study"
    study = hosts.open_study(made, place, url)
    study.enqueue_trial({"train.learning_rate": 0.2, "model.n_head": 3})
    study.optimize(hosts.Objective(made, Book(place), Trainer(Book(place))), n_trials=1)
    (trial,) = study.trials
    assert trial.state.name == "PRUNED"
    assert "must divide" in trial.user_attrs["refused"]


def test_what_is_refused_does_not_count_as_a_trial(tmp_path: Path, url: str) -> None:
    text = TPE.replace("train.weight_decay: {low: 0.01, high: 0.9}", "model.n_head: [2, 3]")
    made, place = plan(tmp_path, text), tmp_path / "study"
    trainer = Trainer(Book(place))
    study = hosts.open_study(made, place, url)
    study.enqueue_trial({"train.learning_rate": 0.2, "model.n_head": 3})
    hosts.work(study, hosts.Objective(made, Book(place), trainer))
    assert states(study)[0] == "PRUNED"
    assert len(trainer.ran) == 6


def test_a_search_of_which_everything_is_refused_comes_to_an_end(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "REPEATS", 4)
    made, place = plan(tmp_path, TPE + "limits: {parameters: 1}\n"), tmp_path / "study"
    study = hosts.open_study(made, place, url)
    hosts.work(study, hosts.Objective(made, Book(place), Trainer(Book(place))))
    assert states(study) == ["PRUNED"] * 4


def test_a_trial_that_fails_does_not_end_its_worker(tmp_path: Path, url: str) -> None:
    made, place = plan(tmp_path, TPE.replace("trials: 6", "trials: 2")), tmp_path / "study"
    trainer, fails = Trainer(Book(place)), iter([True])

    def sometimes(trials: Sequence[Trial], lease: str) -> None:
        if next(fails, False):
            raise hosts.Failed("it diverged")
        trainer(trials, lease)

    study = hosts.open_study(made, place, url)
    hosts.work(study, hosts.Objective(made, Book(place), sometimes))
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_an_interrupted_worker_leaves_its_trial_to_others(tmp_path: Path, url: str) -> None:
    made, place = plan(tmp_path, TPE), tmp_path / "study"

    def stop(trials: Sequence[Trial], lease: str) -> None:
        raise hosts.Interrupted

    study = hosts.open_study(made, place, url)
    with pytest.raises(hosts.Interrupted):
        hosts.work(study, hosts.Objective(made, Book(place), stop))
    assert states(study) == ["FAIL", "WAITING"]
    study.optimize(hosts.Objective(made, Book(place), Trainer(Book(place))), n_trials=1)
    assert study.trials[0].params == study.trials[1].params


def test_a_silent_workers_trial_is_tried_again_with_its_parameters(
    tmp_path: Path, url: str
) -> None:
    made, place = plan(tmp_path, TPE), tmp_path / "study"
    study = hosts.open_study(made, place, url, heartbeat=1)
    lost = study.ask(hosts.Objective(made, Book(place), Trainer(Book(place))).known)
    study._storage.record_heartbeat(lost._trial_id)
    an_hour_ago(study)
    study.optimize(hosts.Objective(made, Book(place), Trainer(Book(place))), n_trials=1)
    assert states(study) == ["FAIL", "COMPLETE"]
    assert study.trials[1].params == lost.params


def test_the_plan_comes_back_from_the_study(tmp_path: Path) -> None:
    made = planning.of(planning.only(_file(tmp_path)), ["model.n_layer=1"])
    planning.keep(made, tmp_path)
    again = planning.kept(tmp_path)
    assert again.trials({})[0].key == made.trials({})[0].key
    assert hosts.name_of(again, tmp_path) == hosts.name_of(made, tmp_path)


def test_searches_over_different_baselines_share_no_study(tmp_path: Path) -> None:
    document = planning.only(_file(tmp_path))
    one, other = (planning.of(document, [f"model.n_layer={depth}"]) for depth in (1, 2))
    assert hosts.name_of(one, tmp_path) != hosts.name_of(other, tmp_path)


def _file(tmp_path: Path) -> Path:
    file = tmp_path / "search.yaml"
    file.write_text(TPE.replace("model.n_layer: 2, ", ""), "utf-8")
    return file


def test_strategies_of_our_own_need_no_database(tmp_path: Path, url: str) -> None:
    made = plan(tmp_path, FILE)
    with pytest.raises(ConfigError, match="random keeps its state in STUDY"):
        hosts.open_study(made, tmp_path, url)


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is in the search extra")
    made = plan(tmp_path, TPE)
    with pytest.raises(UserError, match=r"--storage postgresql://me@127\.0\.0\.1:9/none") as caught:
        hosts.open_study(made, tmp_path, "postgresql://me:secret@127.0.0.1:9/none")
    assert "secret" not in str(caught.value)
