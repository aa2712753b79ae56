"""A trial as another machine runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from espalier.study.book import Book
from espalier.study.launch.errand import STOPPED, Errand, Report, tries
from espalier.study.orders import Orders
from espalier.study.process import STUCK
from tests.study.synthetic import failing, objective, script, sessions, trials


def errand(place: Path, orders: Orders | None = None, lease: str = "lease") -> Errand:
    (trial,), book = trials(1), Book(place, lease)
    for name in ("trials", "runs"):
        (place / name).mkdir(exist_ok=True)
    mine = orders or objective(trial, book, "cpu")
    return Errand(str(place), str(place), trial.key, mine, lease, 1)


def test_it_comes_to_its_end_and_is_not_done_twice(tmp_path: Path) -> None:
    one = errand(tmp_path)
    assert one("n0") == one("n1") == Report(0)
    assert sessions(tmp_path / "runs" / one.key) == [0]
    assert [found.place for found in tries(Book(tmp_path, "lease"), one)] == ["n0"]


def test_a_process_that_is_killed_begins_again_until_it_comes_no_further(tmp_path: Path) -> None:
    one = errand(tmp_path, script("import os; os.kill(os.getpid(), 9)"))
    code, said = one("n0")
    assert code == 3
    assert said.startswith(f"killed {STUCK} times at one place (exit code -9)")
    assert len(tries(Book(tmp_path, "lease"), one)) == STUCK
    again = errand(tmp_path, lease="next call")  # which tries it once more
    assert again("n0") == Report(0)


def test_what_a_trial_said_was_wrong_is_reported(tmp_path: Path) -> None:
    assert errand(tmp_path, failing(2, "no such corpus"))("n0") == Report(2, "no such corpus")


def test_an_end_without_results_is_a_failure(tmp_path: Path) -> None:
    code, said = errand(tmp_path, script("pass"))("n0")
    assert (code, said) == (1, "exit code 0")


def test_once_stopped_it_begins_nothing(tmp_path: Path) -> None:
    one = errand(tmp_path)
    one.rest()
    assert one("n0") == Report(STOPPED)
    assert not (tmp_path / "runs" / one.key).exists()


def test_a_trial_ends_with_its_worker(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
    words = [
        "-m",
        "espalier.study.tether",
        "PARENT",
        sys.executable,
        "-c",
        child + "time.sleep(60)",
    ]
    parent = "import os, subprocess, sys, time; words = sys.argv[1:]; i = words.index('PARENT');"
    parent += "words[i] = str(os.getpid()); subprocess.Popen([sys.executable, *words]);"
    worker = subprocess.Popen([sys.executable, "-c", parent + "time.sleep(60)", *words])
    limit = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text("utf-8"):
        assert time.monotonic() < limit
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text("utf-8"))
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
