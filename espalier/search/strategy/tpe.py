"""Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), by Optuna."""

from typing import Any

from pydantic import Field

from espalier.search import sampling
from espalier.search.slots import Problem, Strategy, StrategyConfig


class TpeConfig(StrategyConfig):
    """Samples where good results are likely and bad ones are not; any number of objectives."""

    startup: int = Field(10, ge=1)
    """random experiments before the first that is modelled"""

    def check(self, problem: Problem) -> None:
        sampling.check(problem, self.name)

    def sampler(self, seed: int | None) -> Any:
        samplers = sampling.quiet().samplers
        return samplers.TPESampler(n_startup_trials=self.startup, multivariate=True, seed=seed)

    def build(self, problem: Problem) -> Strategy:
        return sampling.Sampled(problem, self.sampler(problem.seed))
