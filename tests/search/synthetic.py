"""Searches whose trials are worked out at once, in place of training."""

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from espalier.search import plan as planning
from espalier.search.log import Asked, Told
from espalier.search.plan import Plan
from espalier.search.session import Session
from espalier.study.book import COMPLETE, FAILED, Book, told
from espalier.study.plan import Trial
from espalier.study.pool import Event

SMALL = "model.n_layer: 2, model.n_embd: 16, model.n_head: 2, model.block_size: 8"
FILE = """
recipe: shakespeare-char-cpu
set: {data.corpus: data/x, train.min_lr: 0.0, SMALL}
space: {train.learning_rate: {low: 0.01, high: 0.5}, train.weight_decay: {low: 0.01, high: 0.9}}
strategy: random
trials: 6
""".replace("SMALL", SMALL)

Objective = Callable[[Trial], dict[str, Any] | None]


def bowl(trial: Trial) -> dict[str, Any]:
    """Lowest, at 1, where the learning rate is 0.1 and the weight decay 0.3."""
    train = trial.experiment.train
    loss = 1 + (train.learning_rate - 0.1) ** 2 + (train.weight_decay - 0.3) ** 2
    return {"val_loss": loss, "best_val_loss": loss, "seconds": 1.0, "step": 10}


class Instant:
    """Runs trials by calling a function; None is a trial that fails by its own fault."""

    def __init__(self, book: Book, objective: Objective = bowl):
        self.book, self.objective = book, objective
        self.waiting: list[Trial] = []
        self.ran: list[str] = []

    def run(
        self, trials: Sequence[Trial], interrupted: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        self.waiting = list(trials)
        while self.waiting and not interrupted():
            trial = self.waiting.pop(0)
            self.ran.append(trial.key)
            summary = self.objective(trial)
            if summary is None:
                self.book.note(FAILED, trial, code=2, error="it diverged")
                yield Event(FAILED, trial, 0, error="it diverged")
                continue
            results = self.book.run(trial) / "results"
            results.mkdir(parents=True)
            (results / "train.json").write_text(json.dumps(summary), "utf-8")
            self.book.note(COMPLETE, trial, **told(summary))
            yield Event(COMPLETE, trial, 0, summary)


def plan(tmp_path: Path, text: str = FILE) -> Plan:
    file = tmp_path / "search.yaml"
    file.write_text(text, "utf-8")
    return planning.read(file)


def session(made: Plan, place: Path, objective: Objective = bowl) -> Session:
    book = Book(place)
    place.mkdir(exist_ok=True)
    strategy = made.search.strategy.build(made.at(place))
    return Session(made, strategy, book, Instant(book, objective), width=1)


def go(session: Session, most: int | None = None) -> list[Asked | Told]:
    """Run, and stop after so many runs; what was asked and told."""
    runner = session.pool
    assert isinstance(runner, Instant)
    with session.book.held([]):
        events = list(session.run(lambda: most is not None and len(runner.ran) >= most))
    return [event for event in events if isinstance(event, (Asked, Told))]


def an_hour_ago(study: Any) -> None:
    """Everything that a database has of a search happened an hour earlier."""
    from optuna.storages._rdb import models

    hour = datetime.timedelta(hours=1)
    with study._storage._backend.scoped_session() as session:
        for beat in session.query(models.TrialHeartbeatModel):
            beat.heartbeat -= hour
        for trial in session.query(models.TrialModel):
            if trial.datetime_complete is not None:
                trial.datetime_complete -= hour
        session.commit()


def proposals(session: Session) -> list[dict[str, Any]]:
    """The settings asked for, in order."""
    return [one.proposal.settings for one in session.asked]
