"""Each trial comes to one end, whatever becomes of the processes that run it."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from espalier import lock
from espalier.errors import UserError
from espalier.study.book import COMPLETE, FAILED, KILLED, STARTED, Book
from espalier.study.launch.local import Local, Running
from espalier.study.orders import Command, Orders
from espalier.study.plan import Trial
from espalier.study.pool import Pool, SetAside
from espalier.study.worker import Worker, alike
from tests.study.synthetic import (
    at_once,
    complete,
    failing,
    objective,
    script,
    sessions,
    states,
    trials,
)


def here(book: Book, number: int, command: Command = at_once) -> Pool:
    return Pool(book, Local(book, [Worker(i) for i in range(number)], command))


def strike(attempt: object) -> None:
    assert isinstance(attempt, Running)
    assert attempt.process is not None
    os.kill(attempt.process.pid, signal.SIGKILL)


def test_under_random_kills_each_trial_is_complete_once_and_none_is_lost(tmp_path: Path) -> None:
    book, made, luck = Book(tmp_path), trials(40), random.Random(7)
    pool = here(book, 8, objective)
    kills = 0

    def now_and_then() -> bool:
        """Called at every look of the pool."""
        nonlocal kills
        if pool.running and kills < 40 and luck.random() < 0.2:
            strike(luck.choice(list(pool.running.values())))
            kills += 1
        return False

    with book.held(made):
        list(pool.run(made, now_and_then))
    assert complete(book) == sorted(trial.key for trial in made)
    assert states_of(book, KILLED) > 0


def states_of(book: Book, state: str) -> int:
    return sum(record["state"] == state for record in book.records())


def test_a_killed_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(1)
    pool = here(book, 1, objective)

    def once() -> bool:
        if book.step(made[0]) >= 2 and states_of(book, KILLED) == 0:
            for attempt in pool.running.values():
                strike(attempt)
        return False

    with book.held(made):
        list(pool.run(made, once))
    first, second = sessions(book.run(made[0]))
    assert first == 0
    assert second >= 2


def test_finished_work_is_not_repeated(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(3)
    with book.held(made):
        list(here(book, 1).run(made[:2]))
    with book.held(made):
        events = list(here(book, 1).run(made))
    assert states(events) == [STARTED, COMPLETE]
    assert complete(book) == sorted(trial.key for trial in made)


def test_a_run_that_ended_unrecorded_is_recorded_by_the_next_call(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(1)
    with book.held(made):
        list(here(book, 1).run(made))
    (tmp_path / "study.jsonl").unlink()
    with book.held(made):
        assert complete(book) == [made[0].key]


def test_a_record_without_its_run_counts_for_nothing(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(1)
    with book.held(made):
        book.note(COMPLETE, made[0])
    with book.held(made):
        assert complete(book) == []


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(2)
    with book.held(made):
        book.note(STARTED, made[0])
    with (tmp_path / "study.jsonl").open("a") as stream:
        stream.write('{"state": "COMP')
    with book.held(made):
        book.note(FAILED, made[1])
        assert [record["state"] for record in book.records()] == [STARTED, FAILED]


def test_one_sweep_at_a_time_writes_a_study(tmp_path: Path) -> None:
    book = Book(tmp_path)
    with book.held([]), pytest.raises(UserError, match="in use by process"), book.held([]):
        pass


def test_a_failed_trial_does_not_stop_the_others_and_is_tried_by_the_next_call(
    tmp_path: Path,
) -> None:
    book, made = Book(tmp_path), trials(3)

    def second_fails(trial: Trial, book: Book, device: str) -> Orders:
        wrong = trial is made[1]
        return failing(2, "step 5: diverged") if wrong else at_once(trial, book, device)

    with book.held(made):
        events = list(here(book, 1, second_fails).run(made))
    assert states(events) == [STARTED, COMPLETE, STARTED, FAILED, STARTED, COMPLETE]
    assert events[3].error == "step 5: diverged"
    with book.held(made):
        again = list(here(book, 1).run(made))
    assert states(again) == [STARTED, COMPLETE]


def test_a_worker_whose_trials_fail_alike_is_set_aside_and_others_take_them(
    tmp_path: Path,
) -> None:
    book, made = Book(tmp_path), trials(8)

    def bad_device(trial: Trial, book: Book, device: str) -> Orders:
        if device == "cuda:0":
            return failing(1, f"bug: RuntimeError: CUDA error at {trial.key}")
        return at_once(trial, book, device)

    crew = [Worker(0, "cuda:0"), Worker(1, "cuda:1")]
    with book.held(made):
        events = list(Pool(book, Local(book, crew, bad_device)).run(made))
    aside = [event for event in events if isinstance(event, SetAside)]
    assert [(one.worker, one.again) for one in aside] == [(0, 3)]
    assert complete(book) == sorted(trial.key for trial in made)


def test_where_every_worker_fails_alike_the_rest_is_not_burnt(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(20)
    pool = here(book, 2, lambda *_: failing(3, "no disk"))
    with book.held(made):
        list(pool.run(made))
    assert states_of(book, FAILED) <= 7
    assert len(pool.waiting) >= 13


def test_a_trial_killed_at_one_place_again_and_again_has_failed(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(1)
    suicide = script("import os; os.kill(os.getpid(), 9)")
    with book.held(made):
        events = list(here(book, 1, lambda *_: suicide).run(made))
    assert states(events) == [*[STARTED, KILLED] * 5, STARTED, FAILED]


def test_memory_bounds_how_many_run_at_once(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(6)
    needs, crew = dict.fromkeys((t.key for t in made), 30), [Worker(i) for i in range(4)]
    pool = Pool(book, Local(book, crew, at_once, needs, {"cpu": 70}))
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, len(pool.running))
        return False

    with book.held(made):
        list(pool.run(made, look))
    assert most == 2


def test_a_trial_too_large_for_the_memory_runs_alone(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(2)
    needs, crew = dict.fromkeys((t.key for t in made), 99), [Worker(i) for i in range(2)]
    pool = Pool(book, Local(book, crew, at_once, needs, {"cpu": 70}))
    with book.held(made):
        assert states(list(pool.run(made))) == [STARTED, COMPLETE] * 2


def test_a_run_that_outlived_its_sweep_is_waited_for(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(1)
    book.run(made[0]).mkdir(parents=True)
    owner = lock.hold(book.run(made[0]) / "lock")
    owner.__enter__()
    looks = 0

    def release() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            owner.__exit__(None, None, None)
        return False

    with book.held(made):
        events = list(here(book, 1).run(made, release))
    assert looks >= 3
    assert states(events) == [STARTED, COMPLETE]


def test_an_interrupted_study_ends_soon_and_goes_on_later(tmp_path: Path) -> None:
    book, made = Book(tmp_path), trials(4)
    start = time.monotonic()
    with book.held(made):
        list(here(book, 2, objective).run(made, lambda: book.step(made[0]) > 2))
    assert time.monotonic() - start < 30
    assert len(complete(book)) < 4
    with book.held(made):
        list(here(book, 2).run(made))
    assert complete(book) == sorted(trial.key for trial in made)


def test_errors_are_alike_but_for_numbers_hashes_and_places() -> None:
    one = "step 12: loss 3.5 in runs/0123456789ab-s1 is not finite"
    other = "step 7: loss 12 in runs/ba9876543210-s2 is not finite"
    assert alike(one) == alike(other) == "step *: loss * in * is not finite"
