"""Workers killed every few seconds: is each trial complete exactly once, and none lost?

    PYTHONPATH=. python benchmarks/kills.py [--trials 200] [--workers 8] [--only pool|ray|optuna]

A synthetic objective of ten steps, each kept, stands for training; every few seconds a worker
chosen at random gets SIGKILL. Three times: the pool of this machine, a Ray cluster on this machine,
and processes of `espalier work`'s loop that agree through PostgreSQL (`tools/postgres.py`), where
one that was killed is started again, as a fork of this process, which has imported torch. Then the
record is read: how many COMPLETE each configuration and seed has, and whether every run has its
results.
"""

import argparse
import collections
import contextlib
import datetime
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from rounds import RESULTS, page
from table import Claim

from espalier import cli
from espalier.study.book import COMPLETE, KILLED, STARTED, Book
from espalier.study.launch.errand import tries
from espalier.study.launch.local import Local
from espalier.study.plan import Trial
from espalier.study.pool import Pool
from espalier.study.worker import Worker
from tests.study import hand, synthetic
from tools import postgres

KEPT = RESULTS / "kills"
PAUSE = 0.3  # seconds of a step
HEARTBEAT = 3  # seconds; in use it is 30
SEARCH = """
recipe: shakespeare-char-cpu
space: {train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}}
strategy: {name: tpe, startup: 1000}
trials: %d
"""


class Killer:
    """Strikes one of the process ids that `alive` names, every `every` seconds or so."""

    def __init__(self, alive: Callable[[], list[int]], every: float = 2.0):
        self.alive, self.every, self.luck, self.kills = alive, every, random.Random(1), 0
        self.next = 0.0

    def __call__(self) -> bool:
        """False: nobody is interrupted. To be called again and again."""
        if time.monotonic() < self.next:
            return False
        self.next = time.monotonic() + self.every * self.luck.uniform(0.5, 1.5)
        if processes := self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.luck.choice(processes), signal.SIGKILL)
                self.kills += 1
        return False


@dataclass
class Found:
    """What the record of a study says."""

    kills: int
    seconds: float
    wanted: int
    complete: int
    """COMPLETE records"""
    different: int
    """configurations and seeds that have one"""
    lost: int
    """wanted, or begun, without results in its run"""
    twice: int
    """with more than one"""
    attempts: int
    again: int
    """trials that began more than once"""

    @property
    def right(self) -> bool:
        return self.lost == self.twice == 0 and self.complete == self.different >= self.wanted


def read(book: Book, wanted: list[str], kills: int, seconds: float, number: int) -> Found:
    records = book.records()
    done = collections.Counter(r["key"] for r in records if r["state"] == COMPLETE)
    begun = {folder.name for folder in (book.place / "runs").iterdir()} | set(wanted)
    ended = {key for key in begun if (book.place / "runs" / key / "results/train.json").is_file()}
    sessions = {key: len(synthetic.sessions(book.place / "runs" / key)) for key in ended}
    return Found(
        kills=kills,
        seconds=seconds,
        wanted=number,
        complete=done.total(),
        different=len(done),
        lost=len(begun - ended) + len(ended - set(done)),
        twice=sum(times > 1 for times in done.values()),
        attempts=sum(sessions.values()),
        again=sum(times > 1 for times in sessions.values()),
    )


def on_pool(place: Path, number: int, workers: int) -> Found:
    book, trials = Book(place), synthetic.trials(number)
    pool = Pool(book, Local(book, [Worker(i) for i in range(workers)], synthetic.steps(PAUSE)))
    return _under(Killer(lambda: [one.process.pid for one in pool.running.values()]), pool, trials)  # type: ignore[attr-defined]


def on_ray(place: Path, number: int, workers: int) -> Found:
    from espalier.study.launch import ray as launch

    book, trials = Book(place, "the only sweep"), synthetic.trials(number)
    asked = launch.request(launch.connect(), "cpu", workers, None, {})
    pool = Pool(book, launch.OnRay(book, asked, synthetic.steps(PAUSE)))

    def alive() -> list[int]:
        last = (tries(book, one.trial)[-1:] for one in pool.running.values())
        return [one.pid for found in last for one in found]

    return _under(Killer(alive), pool, trials)


def _under(killer: Killer, pool: Pool, trials: list[Trial]) -> Found:
    start = time.monotonic()
    with pool.book.held(trials):
        for event in pool.run(trials, killer):
            _show(event)
    took = time.monotonic() - start
    return read(pool.book, [trial.key for trial in trials], killer.kills, took, len(trials))


def _show(event: object) -> None:
    state = getattr(event, "state", "ASIDE")
    if state not in (STARTED, KILLED):
        print({COMPLETE: "."}.get(state, f" {event} "), end="", flush=True)


def on_optuna(place: Path, number: int, workers: int) -> Found:
    text = place.parent / "text.txt"
    text.write_text("all the world is a stage " * 400, encoding="utf-8")
    corpus = str(place.parent / "corpus")
    prepare = ["prepare", str(text), "--tokenizer", "char", "--out", corpus, "--json"]
    if cli.main(prepare):
        raise SystemExit("no corpus")
    from espalier.search import hosts
    from espalier.search import plan as planning

    file = place.parent / "search.yaml"
    file.write_text(SEARCH % number, encoding="utf-8")
    place.mkdir()
    plan = planning.read(file, [f"data.corpus={corpus}"])
    planning.keep(plan, place)
    hosts.open_study(plan, place, f"sqlite:///{place.parent / 'warm.db'}")  # imports all there is
    start = time.monotonic()
    with postgres.server() as storage:
        hand_of = partial(hand.work, plan, place, storage, PAUSE, HEARTBEAT)
        kills = _hands(place, hand_of, number, workers)
        study = hosts.open_study(plan, place, storage)
        for one in study.get_trials(deepcopy=False):
            if one.state.name != "COMPLETE":
                print(one.number, one.state.name, one.user_attrs, one.system_attrs)
    return read(Book(place), [], kills, time.monotonic() - start, number)


def _hands(place: Path, work: Callable[[], None], number: int, workers: int) -> int:
    """Keep so many workers alive until the search has its trials; how many were killed."""
    context = multiprocessing.get_context("fork")

    def begin() -> BaseProcess:
        one = context.Process(target=_quietly, args=(work, place.parent / "workers.log"))
        one.start()
        return one

    hands: list[BaseProcess] = [begin()]
    while not list(place.glob("runs/*")):  # it makes the tables
        time.sleep(0.1)
    hands += [begin() for _ in range(workers - 1)]
    killer = Killer(  # a worker that begins has more to do there
        lambda: [one.pid for one in hands if one.pid and one.is_alive()], every=4.0
    )
    ended = 0
    while any(one.exitcode != 0 for one in hands):  # each ends when the search has its trials
        killer()
        for i, one in enumerate(hands):
            if one.exitcode:
                hands[i] = begin()
        done = len(list(place.glob("runs/*/results/train.json")))
        print("." * (done - ended), end="", flush=True)
        ended = done
        time.sleep(0.1)
    for one in hands:
        one.join()
    for _ in range(2):  # finish what was left behind, once it counts as silent
        time.sleep(3 * HEARTBEAT)
        last = begin()
        last.join()
    return killer.kills


def _quietly(work: Callable[[], None], log: Path) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    work()


PLACES = {"pool": on_pool, "optuna": on_optuna, "ray": on_ray}  # Ray's threads come after the forks
NAMES = {
    "pool": "this machine's pool",
    "ray": "a Ray cluster on this machine",
    "optuna": "Optuna on PostgreSQL",
}


def campaign(name: str, number: int, workers: int) -> None:
    """Run one and keep what was found in results/kills/NAME.json."""
    print(f"\n{NAMES[name]}: ", end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = PLACES[name](Path(folder) / "study", number, workers)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(
        json.dumps({"day": day, "workers": workers, **asdict(found)}, indent=1) + "\n", "utf-8"
    )
    print(f"\n{found}", flush=True)


def tell() -> bool:
    """The page, of the newest campaign of each kind; whether each of them came out right."""
    rows, claims, right = [], [], True
    for name in (name for name in PLACES if (KEPT / f"{name}.json").is_file()):
        told = json.loads((KEPT / f"{name}.json").read_text("utf-8"))
        day, workers = told.pop("day"), told.pop("workers")
        found = Found(**told)
        what = f"{found.wanted} trials, {workers} workers, {found.kills} kills: {NAMES[name]}"
        counted = f"{found.twice} twice, {found.lost} lost"
        claims.append(Claim(what, "one COMPLETE each", counted, "0 and 0"))
        rows.append(
            f"| {NAMES[name]}, {day} | {workers} | {found.wanted} | {found.kills} | "
            f"{found.attempts} | {found.again} | {found.complete} | {found.different} | "
            f"{found.twice} | {found.lost} | {found.seconds:.0f} |"
        )
        right = right and found.right
    names = ("where", "workers", "trials", "kills", "attempts", "begun again", "COMPLETE")
    lines = [
        f"Trials of ten steps of {PAUSE} s; every few seconds one worker gets SIGKILL.",
        "A search ends when it has enough, and has begun a few more by then.",
        "",
        f"| {' | '.join(names)} | of different trials | twice | lost | s |",
        "|---" * (len(names) + 4) + "|",
        *rows,
    ]
    page("kills", "Workers killed every few seconds", lines, claims)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--only", choices=PLACES)
    words = parser.parse_args()
    for name in PLACES:
        if words.only in (None, name):
            campaign(name, words.trials, words.workers)
    raise SystemExit(0 if tell() else "some trial was lost, or is complete twice")


if __name__ == "__main__":
    main()
