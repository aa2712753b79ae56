"""NSGA-II (Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002), by Optuna: several objectives."""

from typing import Any

from pydantic import Field

from espalier.search import sampling
from espalier.search.slots import Problem, Strategy, StrategyConfig


class Nsga2Config(StrategyConfig):
    """Generations bred from the best fronts, spread out along them."""

    population: int = Field(12, ge=2)
    """experiments in a generation"""

    def check(self, problem: Problem) -> None:
        sampling.check(problem, self.name)

    def sampler(self, seed: int | None) -> Any:
        return sampling.quiet().samplers.NSGAIISampler(population_size=self.population, seed=seed)

    def build(self, problem: Problem) -> Strategy:
        return sampling.Sampled(problem, self.sampler(problem.seed))
