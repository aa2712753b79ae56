"""`--on ray`, on a cluster of two machines that Ray plays on this one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.errors import MachineError, UserError
from espalier.study.book import COMPLETE, KILLED, STARTED, Book
from espalier.study.launch import ray as launch
from espalier.study.launch.errand import tries
from espalier.study.orders import Command
from espalier.study.pool import Pool, SetAside
from tests.study.synthetic import (
    complete,
    failing_if,
    objective,
    sessions,
    slow,
    states,
    trials,
)

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'espalier[ray]'")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        args = {"num_cpus": 2, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=args)
        cluster.add_node(num_cpus=2)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield
        ray.shutdown()
        cluster.shutdown()


def here(place: Path, command: Command = objective, workers: int = 4) -> Pool:
    book = Book(place, f"lease of {place}")
    asked = launch.request(launch.connect(), "auto", workers, None, {})
    return Pool(book, launch.OnRay(book, asked, command))


def test_a_killed_workers_trial_is_run_again_from_its_checkpoint(tmp_path: Path) -> None:
    (trial,), pool = trials(1), here(tmp_path, slow)
    struck = False

    def once() -> bool:
        nonlocal struck
        if not struck and pool.book.step(trial) >= 2:
            struck = True
            os.kill(tries(pool.book, trial)[-1].pid, signal.SIGKILL)
        return False

    with pool.book.held([trial]):
        events = list(pool.run([trial], once))
    assert states(events) == [STARTED, KILLED, STARTED, COMPLETE]
    first, second = sessions(pool.book.run(trial))
    assert first == 0
    assert second >= 2


def test_a_machine_whose_trials_fail_alike_gets_no_more(tmp_path: Path) -> None:
    bad = launch.connect().nodes()[0]["NodeID"]
    made = trials(10)
    pool = here(tmp_path, failing_if(f"'{bad}' in open('{{tries}}').readlines()[-1]", "CUDA error"))
    with pool.book.held(made):
        events = list(pool.run(made))
    assert [one.cause for one in events if isinstance(one, SetAside)] == ["CUDA error"]
    assert complete(pool.book) == sorted(trial.key for trial in made)
    assert bad not in [tries(pool.book, trial)[-1].place for trial in made]


def test_what_is_interrupted_is_saved_and_goes_on_later(tmp_path: Path) -> None:
    made, pool = trials(3), here(tmp_path, slow, workers=2)
    with pool.book.held(made):
        list(pool.run(made, lambda: pool.book.step(made[0]) >= 2))
    assert len(complete(pool.book)) < 3
    again = here(tmp_path)
    with again.book.held(made):
        list(again.run(made))
    assert complete(again.book) == sorted(trial.key for trial in made)


def test_a_study_that_another_machine_does_not_see_is_named(tmp_path: Path) -> None:
    (trial,), pool = trials(1), here(tmp_path)
    assert isinstance(pool.launcher, launch.OnRay)
    errand = pool.launcher.errand(trial)
    errand.study = "/nowhere/study"
    code, said = errand("somewhere")
    assert code == 3
    assert said.startswith("/nowhere/study is not on ")


def test_trials_share_the_machines_of_the_cluster() -> None:
    connected = launch.connect()
    for workers, threads in ((None, 2), (4, 1), (8, 1), (1, 2)):
        asked = launch.request(connected, "auto", workers, None, {})
        assert (asked.device, asked.most, asked.threads) == ("cpu", workers or 2, threads)


def test_a_device_that_the_cluster_has_not_is_said(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no machine of this Ray cluster has a GPU"):
        launch.request(launch.connect(), "cuda", None, None, {})
    with pytest.raises(UserError, match="--on ray takes --device cpu or cuda, got mps"):
        launch.request(launch.connect(), "mps", None, None, {})
