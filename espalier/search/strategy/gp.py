"""Gaussian process with expected improvement, by Optuna: for few and long experiments."""

from typing import Any

from pydantic import Field

from espalier.errors import need
from espalier.search import sampling
from espalier.search.slots import Problem, Strategy, StrategyConfig


class GpConfig(StrategyConfig):
    """Takes what a Gaussian process expects to improve most; several objectives by hypervolume."""

    startup: int = Field(10, ge=1)
    """random experiments before the first that is modelled"""

    def check(self, problem: Problem) -> None:
        sampling.check(problem, self.name)
        need("scipy", "search")

    def sampler(self, seed: int | None) -> Any:
        return sampling.quiet().samplers.GPSampler(n_startup_trials=self.startup, seed=seed)

    def build(self, problem: Problem) -> Strategy:
        return sampling.Sampled(problem, self.sampler(problem.seed))
