"""Optuna's samplers as strategies: asked and told, with a journal that Optuna Dashboard opens."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.errors import need
from espalier.search.slots import Found, Problem, Proposal, Settings
from espalier.search.space import Choice, Space, Values
from espalier.search.strategy.random import refuse_open

JOURNAL = "optuna.jsonl"
NAME = "search"


class Sampled:
    """The baseline, then what a sampler suggests.

    Of one objective, what failed counts as worse than all that did not. The journal is written anew
    from the study's record at each call.
    """

    chosen = None
    ended = ""

    def __init__(self, problem: Problem, sampler: Any):
        optuna = quiet()
        self.problem, self.space = problem, problem.flat
        self.known = distributions(self.space)
        self.names = problem.objectives
        directions = ["minimize"] * len(self.names)
        storage = None if problem.place is None else journal(problem.place)
        self.study = optuna.create_study(
            storage=storage, sampler=sampler, directions=directions, study_name=NAME
        )
        self.worst = optuna.trial.TrialState.PRUNED if len(self.names) == 1 else None
        self.failed = optuna.trial.TrialState.FAIL
        self.asked: list[Any] = []
        self.account: Mapping[str, Any] = {}

    def ask(self, left: int) -> Proposal | None:
        if left <= 0:
            return None
        if not self.asked:
            if set(self.problem.start) != set(self.space):
                self.asked.append(None)  # the baseline lies outside: nothing for a sampler
                return Proposal({})
            self.study.enqueue_trial(parameters(self.problem.start, self.space))
        trial = self.study.ask(self.known)
        self.asked.append(trial)
        return Proposal(settings(trial.params, self.space))

    def tell(self, number: int, found: Found | None) -> None:
        trial = self.asked[number]
        if trial is None:
            return
        if found is None:
            self.study.tell(trial, state=self.worst or self.failed)
        else:
            self.study.tell(trial, [found[name] for name in self.names])


def quiet() -> Any:
    """Optuna, which the `search` extra brings, without its remarks on every trial."""
    optuna = need("optuna", "search")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module=r"optuna\.", category=Warning)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def journal(place: Path) -> Any:
    """An empty journal in the study's directory."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    (place / JOURNAL).unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(place / JOURNAL)))


def check(problem: Problem, name: str) -> None:
    """ConfigError for a space with open ranges; MachineError without Optuna."""
    refuse_open(problem.space, name)
    quiet()


def distributions(space: Space) -> dict[str, Any]:
    """Path -> Optuna's distribution."""
    return {path: _distribution(values) for path, values in space.items()}


def _distribution(values: Values) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(values, Choice):
        return CategoricalDistribution(_labels(values))
    if values.step is not None:  # steps are counted: a last one that does not reach `high` is left
        return IntDistribution(0, values.size - 1)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(float(values.low), float(values.high), log=values.log)


def _labels(values: Choice) -> list[Any]:
    """Storages take numbers and words only: what is more goes as its JSON."""
    plain = (str, int, float, bool, type(None))
    simple = all(isinstance(one, plain) for one in values.values)
    return [one if simple else json.dumps(one, sort_keys=True) for one in values.values]


def settings(params: Mapping[str, Any], space: Space) -> Settings:
    """Path -> value, from what Optuna suggests."""
    return {path: _value(params[path], values) for path, values in space.items()}


def _value(label: Any, values: Values) -> Any:
    if isinstance(values, Choice):
        return values.values[_labels(values).index(label)]
    return values.value(label) if values.step is not None else values.tidy(label)


def parameters(start: Settings, space: Space) -> dict[str, Any]:
    """What Optuna would have suggested for values that lie in the space."""
    return {path: _label(start[path], values) for path, values in space.items()}


def _label(value: Any, values: Values) -> Any:
    if isinstance(values, Choice):
        return _labels(values)[values.values.index(value)]
    if values.step is None:
        return value
    return min(range(values.size), key=lambda index: abs(values.value(index) - value))
