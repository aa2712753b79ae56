"""One search, workers on many hosts: an Optuna objective, and the storage through which they agree.

A worker is a process with this:

    plan, book = kept(STUDY), Book(STUDY)
    study = open_study(plan, STUDY, "postgresql://...")
    work(study, Objective(plan, book, train))

`train` runs trials to their end, wherever; results are run directories in STUDY, as everywhere. A
worker beats its heart while it trains. One that falls silent is noticed by the next that asks for
a trial: the storage puts the same parameters back into the queue, so the same configuration, and
with it the run that goes on from its checkpoint.
"""

import contextlib
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espalier.config import digest, refine
from espalier.errors import ConfigError, UserError, need
from espalier.search import goals, sampling
from espalier.search.plan import Plan
from espalier.search.space import Choice
from espalier.study.book import Book
from espalier.study.plan import Trial

HEARTBEAT = 30  # seconds between two beats
RETRIES = 6  # of a trial whose worker has fallen silent
REPEATS = 200  # trials in a row that nothing new came of, before a search gives up
BEAT, ENDED = (
    "beat",
    "ended",
)  # attributes of a trial; its own number, since a repetition has them too

Train = Callable[[Sequence[Trial], str], None]
"""Runs each trial to its end, under a lease (`espalier.lock`), or finds that it has ended already.
Raises `Failed` where one fails, `Interrupted` to be called again."""


class Failed(Exception):  # noqa: N818
    """A trial has failed; the search goes on with others."""


class Interrupted(Exception):  # noqa: N818
    """This worker is to end; its trial is for another, or for the next call."""


class Overtaken(BaseException):
    """This worker was silent for so long that its trial was given to another; no failure of it."""


class Objective:
    """Optuna's trial to values: finished configurations are not trained again."""

    def __init__(self, plan: Plan, book: Book, train: Train):
        self.plan, self.book, self.train = plan, book, train
        self.space = plan.problem.flat
        self.known = sampling.distributions(self.space)

    def __call__(self, trial: Any) -> list[float]:
        """The objectives in their order. Raises TrialPruned for what makes no valid experiment."""
        _beat(trial.study, _stored(trial))
        try:
            return self._values(trial)
        except Exception as error:
            trial.set_user_attr(ENDED, trial.number)
            if isinstance(error, Interrupted):
                trial.study.enqueue_trial(trial.params)
            raise

    def _values(self, trial: Any) -> list[float]:
        trials = self._trials(trial)
        trial.set_user_attr("keys", [one.key for one in trials])
        self.train(trials, lease(trial))
        if _stored(trial).state.is_finished():
            raise Overtaken
        found = goals.measured(self.book, trials, self.plan.wanted)
        if found is None:
            raise Failed("no finite loss")
        values = {**self.plan.count(trials[0])[1], **found}
        return [values[name] for name in self.plan.search.objectives]

    def _trials(self, trial: Any) -> list[Trial]:
        params = {path: self._suggested(trial, path) for path in self.space}
        try:
            trials = self.plan.trials(sampling.settings(params, self.space))
            self.plan.admit(trials)
        except ConfigError as error:
            trial.set_user_attr("refused", str(error))
            raise sampling.quiet().TrialPruned(str(error)) from None
        return trials

    def _suggested(self, trial: Any, path: str) -> Any:
        one, values = self.known[path], self.space[path]
        if isinstance(values, Choice):
            return trial.suggest_categorical(path, one.choices)
        if values.whole or values.step is not None:
            return trial.suggest_int(path, one.low, one.high, log=one.log)
        return trial.suggest_float(path, one.low, one.high, log=one.log)


def lease(trial: Any) -> str:
    """The same for a trial and for its repetition after its worker has fallen silent."""
    first = _stored(trial).system_attrs.get("failed_trial", trial.number)  # by the retry callback
    return f"{trial.study.study_name}/{first}"


def _stored(trial: Any) -> Any:
    """As the storage has it now."""
    return trial.study.get_trials(deepcopy=False)[trial.number]


def open_study(plan: Plan, place: Path, url: str, heartbeat: int = HEARTBEAT) -> Any:
    """The Optuna study of a study directory in a database; the first worker makes it.

    Its name is the directory's with hashes of what is searched and of what the baseline comes to,
    so that one database holds many.
    ConfigError for a strategy that is not Optuna's, UserError where the database refuses.
    """
    sampler = plan.search.strategy.sampler(None)  # its own luck on each host
    if sampler is None:
        name = plan.search.strategy.name
        raise ConfigError(f"--storage is for Optuna's strategies; {name} keeps its state in STUDY")
    optuna = sampling.quiet()
    try:
        study = optuna.create_study(
            storage=storage(url, heartbeat),
            sampler=sampler,
            directions=["minimize"] * len(plan.search.objectives),
            study_name=name_of(plan, place),
            load_if_exists=True,
        )
    except Exception as error:
        said = str(error).strip().split("\n")[0]
        raise UserError(f"--storage {safe(url)}: {type(error).__name__}: {said}") from None
    start, space = plan.problem.start, plan.problem.flat
    if set(start) == set(space):
        study.enqueue_trial(sampling.parameters(start, space), skip_if_exists=True)
    return study


def name_of(plan: Plan, place: Path) -> str:
    """What the study is called in its database: equal for equal files over equal baselines."""
    searched = digest(refine(plan.search, {"trials": 1, "workers": 1}))
    return f"{place.name}-{searched}-{digest(plan.problem.baseline)}"


def storage(url: str, heartbeat: int) -> Any:
    """Optuna's storage in a database, with heartbeats; what falls silent is tried again."""
    need("sqlalchemy", "search")
    storages = sampling.quiet().storages
    if url.startswith(("postgresql://", "postgres://")):
        need("psycopg", "search")
        url = f"postgresql+psycopg://{url.partition('://')[2]}"
    return storages.RDBStorage(
        url,
        heartbeat_interval=heartbeat,
        heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(RETRIES),
    )


def safe(url: str) -> str:
    """A database's address without its password."""
    head, at, tail = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.partition(':')[0]}{at}{tail}"


def work(study: Any, objective: Objective) -> None:
    """Trials, one after the other, until the search has as many as its file says.

    Those that were refused or have failed do not count. Raises what `train` raises, but for
    `Failed`.
    """
    optuna = sampling.quiet()
    state = optuna.trial.TrialState
    most = objective.plan.search.trials

    def stop_at_last(study: Any, trial: Any) -> None:
        if enough(study, most):
            study.stop()

    heal(study)
    if not enough(study, most):
        _optimize(study, objective, callbacks=[stop_at_last])
    heal(study)
    optuna.storages.fail_stale_trials(study)  # what others have begun and left has its end too
    while any(trial.state == state.WAITING for trial in study.get_trials(deepcopy=False)):
        _optimize(study, objective, n_trials=1)


def enough(study: Any, most: int) -> bool:
    """Whether so many different experiments are complete, or a sampler finds nothing new.

    What it finds again, and what is refused, is nothing new.
    """
    different: set[tuple[str, ...]] = set()
    misses = 0
    for trial in study.get_trials(deepcopy=False):
        keys = tuple(trial.user_attrs.get("keys", ()))
        if trial.state.name == "COMPLETE" and keys not in different:
            different.add(keys)
            misses = 0
        elif trial.state.name in ("COMPLETE", "PRUNED"):
            misses += 1
    return len(different) >= most or misses >= REPEATS


def heal(study: Any) -> None:
    """Find what Optuna misses of workers that were killed at a wrong moment.

    One that had taken a trial and not beaten its heart once: Optuna looks only at those who have,
    so a beat is made up for it. One that had found another silent, and not put its trial back into
    the queue yet: that is made up for, once nobody can be about to do it. A repetition too many
    finds the run finished.
    """
    trials = study.get_trials(deepcopy=False)
    repeated = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    repeat = study._storage.get_heartbeat_stale_trial_callback()
    grace = 2 * study._storage.get_heartbeat_interval()
    before = datetime.datetime.now() - datetime.timedelta(seconds=grace)  # noqa: DTZ005 - as Optuna
    for trial in trials:
        attributes, state = trial.user_attrs, trial.state.name
        if state == "RUNNING" and attributes.get(BEAT) != trial.number:
            _beat(study, trial)
        by_itself = attributes.get(ENDED) == trial.number
        left = not by_itself and trial.number not in repeated
        if state == "FAIL" and left and trial.datetime_complete < before:
            repeat(study, trial)


def _beat(study: Any, trial: Any) -> None:
    """A sign of life, and the note that there was one."""
    with contextlib.suppress(sampling.quiet().exceptions.UpdateFinishedTrialError):
        study._storage.record_heartbeat(trial._trial_id)
        study._storage.set_trial_user_attr(trial._trial_id, BEAT, trial.number)


def _optimize(study: Any, objective: Objective, **until: Any) -> None:
    while True:
        try:
            study.optimize(objective, catch=(Failed,), **until)
        except Overtaken:  # what was found is told by whoever has the trial now
            continue
        return
