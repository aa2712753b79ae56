"""Asynchronous successive halving (ASHA, arXiv:1810.05934): most experiments end early."""

from pydantic import Field

from espalier.errors import ConfigError
from espalier.experiment import Experiment
from espalier.search.slots import Found, Problem, Proposal, Settings, StrategyConfig
from espalier.search.strategy.random import Drawn, refuse_open
from espalier.train import setup, stages

STOP = "train.stop.tokens"
# With these an update, or the whole training, would have another number of tokens.
LENGTHS = (
    "data.batch_size",
    "model.block_size",
    "train.gradient_accumulation_steps",
    "train.max_iters",
    "train.target_tokens",
    "train.batch_schedule",
    "train.length_schedule",
    "train.stop",
)


class HalvingConfig(StrategyConfig):
    """All are trained for `least` updates, the best 1/eta of them eta times as long, and so on.

    The schedule is that of the whole training, so that one which is promoted goes on from its own
    checkpoint as if it had never stopped. `trials` counts what begins.
    """

    least: int = Field(50, ge=1)
    """updates on the lowest rung"""
    eta: int = Field(3, ge=2)
    """one of so many is promoted"""

    def check(self, problem: Problem) -> None:
        refuse_open(problem.space, self.name)
        if problem.objectives != ("loss",):
            raise ConfigError("halving has one objective: objectives: [loss]")
        for path in problem.space:
            if any(path == one or path.startswith(f"{one}.") for one in LENGTHS):
                raise ConfigError(f"halving compares equal lengths: leave {path} out of the space")
        if self.least >= _horizon(problem.baseline):
            whole = _horizon(problem.baseline)
            raise ConfigError(f"strategy.least={self.least}: a whole training has {whole} updates")

    def takes(self, problem: Problem, trials: int) -> float:
        """The baseline's whole training, and of all others the rungs they are likely to see."""
        whole = _horizon(problem.baseline)
        parts, start = 0.0, 0
        for rung in range(64):
            end = min(self.least * self.eta**rung, whole)
            parts += (end - start) / self.eta**rung
            start = end
        return 1 + (trials - 1) * parts / whole

    def build(self, problem: Problem) -> "Halving":
        return Halving(problem, rungs(problem.baseline, self.least, self.eta), self.eta)


def _horizon(plan: Experiment) -> int:
    step = plan.data.batch_size * plan.model.block_size * plan.train.gradient_accumulation_steps
    return setup.horizon(plan.train, step)


def rungs(plan: Experiment, least: int, eta: int) -> list[int | None]:
    """Tokens at which each rung ends; None for the last, the whole training."""
    found: list[int | None] = []
    window = plan.data.batch_size * plan.model.block_size
    while least < _horizon(plan):
        found.append(stages.micro_batches(plan.train, least) * window)
        least *= eta
    return [*found, None]


class Halving:
    """Experiments by number; `losses` of each rung, and who was promoted from it."""

    def __init__(self, problem: Problem, rungs: list[int | None], eta: int):
        self.rungs, self.eta = rungs, eta
        self.source = Drawn(problem)
        self.settings: list[Settings] = []
        self.rung: list[int] = []  # of each proposal; the baseline is on none: -1
        self.losses: list[dict[int, float]] = [{} for _ in rungs]
        self.promoted: set[int] = set()
        self.account: dict[str, object] = {}

    @property
    def ended(self) -> str:
        return self.source.ended

    @property
    def chosen(self) -> int | None:
        """The best on the highest rung that any has reached."""
        highest = next((found for found in reversed(self.losses) if found), None)
        return min(highest, key=highest.__getitem__) if highest else None

    def ask(self, left: int) -> Proposal | None:
        number = self._promotable()
        if number is not None:
            self.promoted.add(number)
            return self._propose(self.settings[number], self.rung[number] + 1, number)
        drawn = self.source.ask(left)
        if drawn is None:
            return None
        return self._propose(drawn.settings, 0 if self.settings else -1, None)

    def _promotable(self) -> int | None:
        """The best of its rung among its first 1/eta that has not gone on, highest rung first."""
        for found in reversed(self.losses[:-1]):
            best = sorted(found, key=lambda number: (found[number], number))
            for number in best[: len(found) // self.eta]:
                if number not in self.promoted:
                    return number
        return None

    def _propose(self, settings: Settings, rung: int, after: int | None) -> Proposal:
        self.settings.append(settings)
        self.rung.append(rung)
        tokens = self.rungs[rung]
        stop = {} if tokens is None else {STOP: tokens}
        return Proposal({**settings, **stop}, after, {"rung": rung})

    def tell(self, number: int, found: Found | None) -> None:
        if found is not None and self.rung[number] >= 0:
            self.losses[self.rung[number]][number] = found["loss"]
