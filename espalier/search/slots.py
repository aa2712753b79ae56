"""What a strategy of search is: it is asked for experiments, and told what came of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from espalier.config import PartConfig
from espalier.experiment import Experiment
from espalier.search.space import Space, each_layer

Settings = dict[str, Any]
"""path -> value, laid on the baseline"""
Found = Mapping[str, float]
"""what came of an experiment, by the names in goals.py"""


@dataclass(frozen=True)
class Proposal:
    """An experiment that a strategy wants made."""

    settings: Settings
    after: int | None = None
    """number of the proposal whose runs it goes on from"""
    note: Mapping[str, Any] = field(default_factory=dict)
    """what the record should say of it beside its settings"""


@dataclass(frozen=True)
class Problem:
    """What is to be searched."""

    baseline: Experiment
    space: Space
    """by path; `model.layers.*.` stands for each layer"""
    start: Settings
    """the baseline's own values at the paths of `flat`; only those that the space has"""
    objectives: tuple[str, ...]
    """all to be as low as can be"""
    seed: int
    """of the strategy's own luck"""
    place: Path | None = None
    """the study's directory; None: nothing is kept"""

    @property
    def flat(self) -> Space:
        """The space with a path for each of the baseline's layers."""
        return each_layer(self.space, self.baseline.model.n_layer)


class Strategy(Protocol):
    """Proposals, numbered from 0 in the order in which they are asked for; 0 is the baseline.

    A strategy knows nothing but its problem and what it was told, and draws from one seeded source,
    so that asking and telling again in the recorded order brings back its state.
    """

    @property
    def chosen(self) -> int | None:
        """The proposal it holds for the best; None: whichever has the lowest first objective."""

    @property
    def ended(self) -> str:
        """Why it has nothing more to propose; empty while it has."""

    @property
    def account(self) -> Mapping[str, Any]:
        """Its own record of its way, for STUDY/iterations.yaml; empty where it keeps none."""

    def ask(self, left: int) -> Proposal | None:
        """The next experiment, of which `left` new configurations may still begin.

        None: nothing now. It is asked again when something has been told.
        """

    def tell(self, number: int, found: Found | None) -> None:
        """What came of a proposal; None where it makes no model, is over a limit, or has failed."""


class StrategyConfig(PartConfig, slot="espalier.search.strategy"):
    """How a search goes on."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What it reads of a result beside the objectives, by the names in goals.py."""
        return ()

    def sampler(self, seed: int | None) -> Any:
        """Optuna's sampler, for workers on many hosts; None where the strategy is not Optuna's."""
        return None

    def check(self, problem: Problem) -> None:
        """ConfigError for a problem that the strategy cannot take."""

    def takes(self, problem: Problem, trials: int) -> float:
        """How many whole trainings so many configurations come to, about."""
        return trials

    def share(self, problem: Problem, settings: Settings) -> float:
        """How much of a whole training a proposal with these settings asks for, from the start."""
        return 1

    def whole(self, settings: Settings) -> Settings:
        """Those of a proposal without what the strategy laid on them to end a training early."""
        return settings

    def build(self, problem: Problem) -> Strategy:
        raise NotImplementedError
