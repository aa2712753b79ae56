"""`--on slurm`, on a stand-in for SLURM's programs: there is none where these tests run."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.errors import MachineError, UserError
from espalier.study.book import COMPLETE, KILLED, STARTED, Book
from espalier.study.launch import slurm
from espalier.study.launch.errand import tries
from espalier.study.launch.queue import Request
from espalier.study.launch.slurm import OnSlurm
from espalier.study.orders import Command
from espalier.study.pool import Pool, SetAside
from tests.study import standin
from tests.study.synthetic import (
    complete,
    failing_if,
    objective,
    sessions,
    slow,
    states,
    trials,
)

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'espalier[dist]'")


@pytest.fixture(autouse=True)
def _slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    standin.install(tmp_path / "slurm", monkeypatch)
    monkeypatch.setattr(slurm, "LOOK", 0.1)
    monkeypatch.setattr(slurm, "STILL", 30.0)
    yield
    standin.scancel(*standin.states())


def here(tmp_path: Path, command: Command = objective, most: int = 2) -> Pool:
    book = Book(tmp_path / "study", "lease")
    return Pool(book, OnSlurm(book, Request("cpu", most=most), {"time": 60}, command))


def test_trials_are_the_tasks_of_one_array_and_each_is_complete_once(tmp_path: Path) -> None:
    made, pool = trials(3), here(tmp_path)
    with pool.book.held(made):
        events = list(pool.run(made))
    assert complete(pool.book) == sorted(trial.key for trial in made)
    assert sorted(states(events)) == [COMPLETE] * 3 + [STARTED] * 3
    script = (standin.jobs() / "1.job").read_text("utf-8")
    asked = standin.asked(script)
    assert (asked["array"], asked["time"], asked["cpus-per-task"]) == ("0-2%2", "60", "1")
    assert "requeue" in asked


@pytest.mark.parametrize("taken", [standin.preempt, standin.fail_node, "time limit"])
def test_what_loses_its_machine_is_requeued_and_goes_on_from_its_checkpoint(
    tmp_path: Path, taken: object
) -> None:
    (trial,), pool = trials(1), here(tmp_path, slow)
    struck = False

    def once() -> bool:
        nonlocal struck
        if not struck and pool.book.step(trial) >= 2:
            struck = True
            if callable(taken):
                taken("1")
            else:  # SLURM's signal before the limit
                standin.strike("1", signal.SIGUSR2)
        return False

    with pool.book.held([trial]):
        events = list(pool.run([trial], once))
    assert states(events) == [STARTED, KILLED, STARTED, COMPLETE]
    first, second = sessions(pool.book.run(trial))
    assert first == 0
    assert second >= 2


def test_a_machine_whose_trials_fail_alike_gets_no_more(tmp_path: Path) -> None:
    made = trials(9)
    pool = here(tmp_path, failing_if("os.environ['SLURMD_NODENAME'] == 'n0'", "CUDA error"))
    with pool.book.held(made):
        events = list(pool.run(made))
    assert [one.cause for one in events if isinstance(one, SetAside)] == ["CUDA error"]
    assert complete(pool.book) == sorted(trial.key for trial in made)
    last = max(standin.jobs().glob("*.job"), key=lambda file: int(file.stem))
    aside = standin.asked(last.read_text("utf-8"))["exclude"]
    assert aside in standin.NODES
    late = [tries(pool.book, trial)[-1].place for trial in made]
    assert aside not in late


def test_a_task_asks_for_the_memory_of_what_is_sent_and_not_only_of_the_first_that_was_known(
    tmp_path: Path,
) -> None:
    (trial,), needs = trials(1), {"the baseline of a search": 10**9}
    launcher = OnSlurm(Book(tmp_path / "study"), Request(memory=needs), {}, objective)
    needs[trial.key] = 3 * 10**9  # proposed later
    attempt = launcher.attempt(trial, launcher.places({})[0])
    launcher.start([attempt])
    launcher.end([attempt])
    asked = standin.asked((standin.jobs() / "1.job").read_text("utf-8"))
    assert asked["mem"] == "3001MB"


def test_what_is_interrupted_is_taken_out_of_the_queue_and_goes_on_later(tmp_path: Path) -> None:
    made, pool = trials(3), here(tmp_path, slow, most=1)
    with pool.book.held(made):
        list(pool.run(made, lambda: pool.book.step(made[0]) >= 2))
    assert len(complete(pool.book)) < 3
    again = here(tmp_path)
    with again.book.held(made):
        list(again.run(made))
    assert complete(again.book) == sorted(trial.key for trial in made)


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MachineError, match="no srun here"):
        here(tmp_path)


def test_a_setting_that_submitit_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--slurm partitoin: .*Did you mean 'partition'"):
        OnSlurm(Book(tmp_path), Request(), {"partitoin": "gpu"})
