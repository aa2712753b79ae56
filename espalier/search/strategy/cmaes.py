"""CMA-ES (Hansen, arXiv:1604.00772), by Optuna: an evolution strategy for numbers."""

from typing import Any

from pydantic import Field

from espalier.errors import ConfigError, need
from espalier.search import sampling
from espalier.search.slots import Problem, Strategy, StrategyConfig


class CmaesConfig(StrategyConfig):
    """A normal distribution whose covariance adapts; what is no number is drawn at random."""

    startup: int = Field(1, ge=1)
    """random experiments before the first generation"""

    def check(self, problem: Problem) -> None:
        sampling.check(problem, self.name)
        if len(problem.objectives) > 1:
            raise ConfigError("cmaes has one objective; for several take nsga2, tpe or gp")
        need("cmaes", "search")

    def sampler(self, seed: int | None) -> Any:
        return sampling.quiet().samplers.CmaEsSampler(n_startup_trials=self.startup, seed=seed)

    def build(self, problem: Problem) -> Strategy:
        return sampling.Sampled(problem, self.sampler(problem.seed))
