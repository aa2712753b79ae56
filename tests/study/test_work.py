"""Workers of one search that agree through PostgreSQL, on this machine in place of many."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espalier import cli, lock
from espalier.errors import ConfigError, UserError
from espalier.search import hosts
from espalier.search import plan as planning
from espalier.study.book import COMPLETE, FAILED, STARTED
from espalier.study.launch.errand import tries
from espalier.study.orders import Orders
from espalier.study.shared import Hand, Shared
from espalier.study.worker import Worker
from tests.search.synthetic import an_hour_ago
from tests.study import hand
from tests.study.synthetic import failing, sessions, trials
from tools import postgres

optuna = pytest.importorskip("optuna", reason="optuna is not installed: 'espalier[search]'")
pytest.importorskip("psycopg", reason="psycopg is not installed: 'espalier[search]'")
if postgres.program("initdb") is None:
    pytest.skip("PostgreSQL's initdb is not installed", allow_module_level=True)

SEARCH = """
recipe: shakespeare-char-cpu
set: {model.n_layer: 1, model.n_embd: 16, model.block_size: 8, train.max_iters: 4,
  train.warmup_iters: 1, train.eval_interval: 4, evaluate.eval_iters: 2, evaluate.first: false}
space: {train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}}
strategy: {name: tpe}
trials: 2
"""


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    with postgres.server() as address:
        yield address


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    text, place = folder / "text.txt", folder / "corpus"
    text.write_text("all the world is a stage, and all the men and women " * 40, "utf-8")
    assert cli.main(["prepare", str(text), "--tokenizer", "char", "--out", str(place)]) == 0
    return place


@pytest.fixture
def study(tmp_path: Path, corpus: Path) -> Path:
    """A search whose workers may begin; its name differs from test to test."""
    file, place = tmp_path / "search.yaml", tmp_path / f"study-{time.time_ns()}"
    file.write_text(SEARCH, "utf-8")
    place.mkdir()
    planning.keep(planning.read(file, [f"data.corpus={corpus}"]), place)
    return place


def begin(study: Path, storage: str, pause: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.study.hand", str(study), storage, pause, "1"]
    root = Path(__file__).parents[2]
    return subprocess.Popen(words, cwd=root, start_new_session=True)


def test_a_silent_workers_trial_is_finished_by_the_next_from_its_checkpoint(
    study: Path, storage: str
) -> None:
    first = begin(study, storage, "0.5")
    wait(lambda: list(study.glob("runs/*/checkpoints/step-00000002")))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (run,) = study.glob("runs/*")
    wait(lambda: lock.owner_of(run / "lock") is None, seconds=5)  # nothing outlives its worker
    an_hour_ago(hosts.open_study(planning.kept(study), study, storage))
    hand.main(study, storage, 0.01)
    began, again = sessions(run)
    assert began == 0
    assert again >= 2
    book = Shared(study)
    keys = [record["key"] for record in book.records() if record["state"] == COMPLETE]
    assert len(keys) == len(set(keys)) == 2
    assert run.name in keys


def wait(until: object, seconds: float = 60.0) -> None:
    assert callable(until)
    limit = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_the_repetition_of_a_trial_has_its_lease_and_another_trial_has_not(
    study: Path, storage: str
) -> None:
    shared = hosts.open_study(planning.kept(study), study, storage)
    one, other = shared.ask(), shared.ask()
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    retry(shared, shared.get_trials()[one.number])
    assert hosts.lease(shared.ask()) == hosts.lease(one) != hosts.lease(other)


def test_a_trial_whose_worker_never_gave_a_sign_of_life_is_repeated(
    study: Path, storage: str
) -> None:
    shared = hosts.open_study(planning.kept(study), study, storage, heartbeat=1)
    lost = shared.ask()  # and killed at once: Optuna itself does not miss it
    hosts.heal(shared)
    an_hour_ago(shared)
    hosts.heal(shared)  # no second sign is made up
    optuna.storages.fail_stale_trials(shared)
    assert hosts.lease(shared.ask()) == hosts.lease(lost)


def test_a_trial_that_was_found_silent_and_not_put_back_is_put_back_once(
    study: Path, storage: str
) -> None:
    shared = hosts.open_study(planning.kept(study), study, storage, heartbeat=1)
    lost = shared.ask()
    shared.tell(lost, state=optuna.trial.TrialState.FAIL)
    hosts.heal(shared)  # somebody may be about to
    assert not waiting(shared)
    an_hour_ago(shared)
    shared = hosts.open_study(planning.kept(study), study, storage, heartbeat=1)  # knows no times
    hosts.heal(shared)
    hosts.heal(shared)
    assert [one.system_attrs["retry_history"] for one in waiting(shared)] == [[lost.number]]


def waiting(study: Any) -> list[Any]:
    return [one for one in study.get_trials() if one.state.name == "WAITING"]


def test_a_worker_trains_what_is_left_and_shows_the_best(
    study: Path, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["work", str(study), "--storage", storage, "--device", "cpu", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] == 2
    (key,) = found["best"][0]["keys"]
    assert (study / "runs" / key / "results" / "train.json").is_file()
    states = [record["state"] for record in Shared(study).records()]
    assert states == [STARTED, COMPLETE] * 2
    assert cli.main(words) == 0  # there is nothing left
    assert json.loads(capsys.readouterr().out) == found


def test_a_strategy_that_is_not_optunas_is_refused(tmp_path: Path, corpus: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(SEARCH.replace("name: tpe", "name: random"), "utf-8")
    plan = planning.read(file, [f"data.corpus={corpus}"])
    with pytest.raises(ConfigError, match="--storage is for Optuna's strategies; random"):
        hosts.open_study(plan, tmp_path, "postgresql://localhost/nowhere")


def test_a_database_that_is_not_there_is_said_without_the_password(study: Path) -> None:
    with pytest.raises(UserError, match=r"--storage postgresql://me@localhost:1/x: ") as caught:
        hosts.open_study(planning.kept(study), study, "postgresql://me:secret@localhost:1/x")
    assert "secret" not in str(caught.value)


def test_a_directory_without_a_search_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["work", str(tmp_path), "--storage", "postgresql://localhost/x"]) == 2
    assert "has no search; first: espalier search FILE --storage" in capsys.readouterr().err


# The record that many write.


def test_a_trial_that_two_workers_end_has_one_complete(tmp_path: Path) -> None:
    (trial,) = trials(1)
    for _ in range(2):
        Shared(tmp_path).note(COMPLETE, trial)
    assert [record["state"] for record in Shared(tmp_path).records()] == [COMPLETE]


def test_a_line_torn_by_a_killed_writer_harms_no_later_one(tmp_path: Path) -> None:
    (trial,), book = trials(1), Shared(tmp_path)
    book.note(STARTED, trial)
    with (tmp_path / "study.jsonl").open("a") as stream:
        stream.write('{"state": "COMP')
    book.note(FAILED, trial)
    assert [record["state"] for record in book.records()] == [STARTED, FAILED]


def test_a_worker_whose_trials_fail_alike_is_set_aside(tmp_path: Path) -> None:
    def broken(*_: object) -> Orders:
        return failing(1, "CUDA error")

    book, made = Shared(tmp_path), trials(3)
    one = Hand(book, Worker(0), broken)
    aside = []
    for trial in made:
        assert one.run(trial, "lease") == (1, "CUDA error")
        aside.append(one.worker.aside)
    assert aside == [False, False, True]
    assert len(tries(Shared(tmp_path, "lease"), made[0])) == 1
