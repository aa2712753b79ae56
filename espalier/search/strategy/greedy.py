"""Greedy search by efficiency: the one step that gains most for what it adds, again and again.

The procedure of ReaLLM-Forge's hyperparam_search.py, with three differences: steps go both ways, a
gain that costs nothing or less beats any that costs something, and the baseline has as many seeds
as its candidates.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from espalier.errors import ConfigError
from espalier.search import steps
from espalier.search.slots import Found, Problem, Proposal, Settings, StrategyConfig
from espalier.search.steps import Duplicate, Move, Ways

ITERS = "train.max_iters"


class GreedyConfig(StrategyConfig):
    """efficiency = (exp(-loss) - exp(-loss of the baseline)) / added cost"""

    target: Literal["parameters", "memory", "latency", "flops", "energy"] = "parameters"
    """the cost"""
    rounds: int = Field(10, ge=1)
    """steps taken at most"""
    reach: int = Field(1, ge=1)
    """how many steps of a path are tried in each direction"""
    ways: Ways = "both"
    """directions in which numbers are tried"""
    duplicate: Duplicate = "middle"
    """which layers' entries n_layer doubles, or drops, where layers differ"""
    longer: int = Field(0, ge=0)
    """updates added where no candidate is better, with which the baseline is measured anew"""

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.target,)

    def check(self, problem: Problem) -> None:
        if problem.objectives != ("loss",):
            raise ConfigError("greedy has one objective: objectives: [loss]; its cost is `target`")
        steps.refuse_nowhere(problem)

    def takes(self, problem: Problem, trials: int) -> float:
        """As if every round had as many candidates as the first."""
        first = steps.moves(problem, {}, self.reach, self.ways, self.duplicate)
        return min(trials, 1 + self.rounds * (len(first) + bool(self.longer)))

    def build(self, problem: Problem) -> "Greedy":
        return Greedy(self, problem)


@dataclass
class Round:
    """One step: where it stood, what was tried, what was chosen."""

    settings: Settings
    found: Found
    moves: Sequence[Move]
    first: int
    """number of the first candidate's proposal"""
    results: dict[int, Found | None] = field(default_factory=dict)
    """by number, as they come"""
    action: str = ""


class Greedy:
    """Walks from the baseline; a generator of batches, each sent its results."""

    def __init__(self, config: GreedyConfig, problem: Problem):
        self.config, self.problem = config, problem
        self.ended = ""
        self.rounds: list[Round] = []
        self.here: int | None = None  # the proposal that stands for the baseline now
        self.asked = 0
        self.results: dict[int, Found | None] = {}
        self.batch: list[Proposal] = []
        self.first = 0
        self.way = self._walk()
        self.batch = next(self.way)

    # what a search calls

    def ask(self, left: int) -> Proposal | None:
        number = self.asked - self.first
        if left <= 0 or self.ended or number >= len(self.batch):
            return None
        self.asked += 1
        return self.batch[number]

    def tell(self, number: int, found: Found | None) -> None:
        self.results[number] = found
        if self.rounds and number >= self.rounds[-1].first and not self.rounds[-1].action:
            self.rounds[-1].results[number] = found
        last = self.first + len(self.batch)
        if all(n in self.results for n in range(self.first, last)) and not self.ended:
            self._on([self.results[n] for n in range(self.first, last)])

    @property
    def chosen(self) -> int | None:
        """Where it stands, or the best step of a round that was cut short."""
        if self.rounds and (found := self._best(self.rounds[-1])) is not None:
            return found
        return self.here

    @property
    def account(self) -> dict[str, Any]:
        """Rounds, each with its candidates; the last with those that are known so far."""
        return {
            "baseline_config": dict(self.problem.start),
            "iterations": [self._told(i, r) for i, r in enumerate(self.rounds) if r.results],
        }

    # the walk

    def _on(self, results: list[Found | None]) -> None:
        """To the next batch that has something in it."""
        self.first, self.batch = self.asked, []
        try:
            while not self.batch:
                self.batch = self.way.send(results)
                results = []
        except StopIteration as end:
            self.ended = end.value

    def _walk(self) -> Generator[list[Proposal], list[Found | None], str]:
        """Batches out, results in; why it ended."""
        settings: Settings = {}
        (found,) = yield [Proposal({})]
        self.here = 0
        for _ in range(self.config.rounds):
            if found is None:
                return "the baseline failed"
            config = self.config
            moves = steps.moves(self.problem, settings, config.reach, config.ways, config.duplicate)
            self.rounds.append(Round(settings, found, moves, self.asked))
            yield [Proposal(move.settings, note=move.facts) for move in moves]
            number = self._best(self.rounds[-1])
            if number is not None:
                self.rounds[-1].action = "step"
                self.here, found = number, self.results[number]
                settings = moves[number - self.rounds[-1].first].settings
            elif self.config.longer:
                self.rounds[-1].action = "longer"
                now = settings.get(ITERS, self.problem.baseline.train.max_iters)
                settings = {**settings, ITERS: now + self.config.longer}
                self.here = self.asked
                (found,) = yield [Proposal(settings)]
            else:
                self.rounds[-1].action = "stop"
                return "no candidate is better"
        return f"{self.config.rounds} rounds"

    def _best(self, one: Round) -> int | None:
        """The candidate of highest efficiency, of several the one that gains most."""
        known = {number: found for number, found in one.results.items() if found is not None}
        rank = {n: (efficiency(*self._change(one, found)), n) for n, found in known.items()}
        gains = {n: self._change(one, found)[0] for n, found in known.items()}
        good = [number for number in rank if rank[number][0] > 0]
        return max(good, key=lambda n: (rank[n][0], gains[n], -n), default=None)

    def _change(self, one: Round, found: Found) -> tuple[float, float]:
        """What a candidate gains in exp(-loss), and what it adds in cost."""
        gain = math.exp(-found["loss"]) - math.exp(-one.found["loss"])
        return gain, found[self.config.target] - one.found[self.config.target]

    def _told(self, index: int, one: Round) -> dict[str, Any]:
        best = self._best(one) if one.action in {"", "step"} else None
        return {
            "iter": index,
            "baseline_config": dict(one.settings),
            "baseline_metrics": self._metrics(one.found),
            "candidates": [
                self._candidate(one, number, found) for number, found in sorted(one.results.items())
            ],
            "chosen": None if best is None else dict(one.moves[best - one.first].facts),
            "baseline_config_after": self._after(one, best),
            "action": one.action or "not finished",
        }

    def _after(self, one: Round, best: int | None) -> Settings:
        """What the next round starts from, as it differs from the baseline of the file."""
        if one.action == "step" and best is not None:
            return one.moves[best - one.first].settings
        return dict(one.settings)

    def _candidate(self, one: Round, number: int, found: Found | None) -> dict[str, Any]:
        facts: dict[str, Any] = {"proposal": number, **one.moves[number - one.first].facts}
        if found is None:
            return {**facts, "loss": None}
        gain, cost = self._change(one, found)
        change = {"delta_score": gain, "delta_cost": cost, "efficiency": efficiency(gain, cost)}
        return {**facts, **self._metrics(found), **change}

    def _metrics(self, found: Mapping[str, float]) -> dict[str, float]:
        return {**found, "score": math.exp(-found["loss"])}


def efficiency(gain: float, cost: float) -> float:
    """Gain for each unit of cost added; above 0 only where there is a gain.

    A gain that adds no cost, or saves some, is infinitely efficient. A loss stays a loss whatever
    it saves: then this is what it loses for each unit, below 0.
    """
    if gain > 0:
        return gain / cost if cost > 0 else math.inf
    if cost == 0:
        return -math.inf if gain < 0 else 0.0
    return gain / abs(cost)
