"""Random search (Bergstra and Bengio, JMLR 13, 2012): each experiment is drawn, none twice."""

import json
from random import Random

from espalier.errors import ConfigError
from espalier.search.slots import Found, Problem, Proposal, Strategy, StrategyConfig
from espalier.search.space import Space

TRIES = 1000  # for something new, before the space counts as exhausted


class RandomConfig(StrategyConfig):
    """Each value of an experiment is drawn from its range or list, evenly, or evenly by ratio."""

    def check(self, problem: Problem) -> None:
        refuse_open(problem.space, self.name)

    def build(self, problem: Problem) -> Strategy:
        return Drawn(problem)


class Drawn:
    """The baseline, then draws."""

    chosen = None

    def __init__(self, problem: Problem):
        self.space, self.luck = problem.flat, Random(problem.seed)
        self.seen = {_text(problem.start)}
        self.begun = False
        self.ended = ""
        self.account: dict[str, object] = {}

    def ask(self, left: int) -> Proposal | None:
        if left <= 0 or self.ended:
            return None
        if not self.begun:
            self.begun = True
            return Proposal({})
        return self.draw()

    def draw(self) -> Proposal | None:
        """Something that was not drawn before; None where nothing is left."""
        for _ in range(TRIES):
            settings = {path: one.draw(self.luck) for path, one in self.space.items()}
            if _text(settings) not in self.seen:
                self.seen.add(_text(settings))
                return Proposal(settings)
        self.ended = "the space holds nothing new"
        return None

    def tell(self, number: int, found: Found | None) -> None:
        pass


def refuse_open(space: Space, name: str) -> None:
    """ConfigError where a range has no end to draw up to."""
    for path, one in space.items():
        if not one.bounded:
            raise ConfigError(f"space.{path}: {name} needs low and high")


def _text(settings: dict[str, object]) -> str:
    return json.dumps(settings, sort_keys=True)
