"""`espalier work` with the synthetic objective in place of training, as a process to be killed.

python -m tests.study.hand STUDY STORAGE PAUSE HEARTBEAT
"""

import sys
from pathlib import Path

from espalier.commands.work import training
from espalier.search import hosts
from espalier.search.plan import Plan, kept
from espalier.study.shared import Hand, Shared
from espalier.study.worker import Worker
from tests.study.synthetic import steps


def main(place: Path, storage: str, pause: float, heartbeat: int = 1) -> None:
    """Work until the search has its trials; `pause` is how long each of ten steps takes."""
    work(kept(place), place, storage, pause, heartbeat)


def work(plan: Plan, place: Path, storage: str, pause: float, heartbeat: int) -> None:
    """The same for a plan that was read already."""
    book = Shared(place)
    hand = Hand(book, Worker(0, host="here"), steps(pause))
    study = hosts.open_study(plan, place, storage, heartbeat)
    hosts.work(study, hosts.Objective(plan, book, training(hand)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
