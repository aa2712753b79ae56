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
        """The baseline's whole training, and of all others the rungs they are likely to see.

        One of them sees all.
        """
        others = trials - 1
        parts, start = 0.0, 0.0
        for rung, tokens in enumerate(rungs(problem.baseline, self.least, self.eta)):
            end = self.share(problem, {STOP: tokens})
            parts += (end - start) * max(others / self.eta**rung, min(others, 1))
            start = end
        return 1 + parts

    def share(self, problem: Problem, settings: Settings) -> float:
        tokens: int | None = settings.get(STOP)
        plan = problem.baseline
        return 1 if tokens is None else tokens / _tokens(plan, _horizon(plan))

    def whole(self, settings: Settings) -> Settings:
        return {path: value for path, value in settings.items() if path != STOP}

    def build(self, problem: Problem) -> "Halving":
        return Halving(problem, rungs(problem.baseline, self.least, self.eta), self.eta)


def _horizon(plan: Experiment) -> int:
    step = plan.data.batch_size * plan.model.block_size * plan.train.gradient_accumulation_steps
    return setup.horizon(plan.train, step)


def rungs(plan: Experiment, least: int, eta: int) -> list[int | None]:
    """Tokens at which each rung ends; None for the last, the whole training."""
    found: list[int | None] = []
    while least < _horizon(plan):
        found.append(_tokens(plan, least))
        least *= eta
    return [*found, None]


def _tokens(plan: Experiment, updates: int) -> int:
    return stages.micro_batches(plan.train, updates) * plan.data.batch_size * plan.model.block_size


class Halving:
    """Experiments by number; `losses` of each rung, and who was promoted from it.

    The last rung is the whole training; the baseline begins there. When all have ended, the best of
    the highest rung goes on until it is there too.
    """

    def __init__(self, problem: Problem, rungs: list[int | None], eta: int):
        self.rungs, self.eta = rungs, eta
        self.source = Drawn(problem)
        self.settings: list[Settings] = []
        self.rung: list[int] = []  # of each proposal
        self.after: list[int | None] = []  # what each goes on from
        self.losses: list[dict[int, float]] = [{} for _ in rungs]
        self.promoted: set[int] = set()
        self.waiting: set[int] = set()  # asked for and not told yet
        self.lost: set[int] = set()  # failed, or went on and failed there
        self.account: dict[str, object] = {}

    @property
    def ended(self) -> str:
        return self.source.ended

    @property
    def chosen(self) -> int | None:
        """The best of those trained whole; before there are any, of the highest rung reached."""
        highest = next((found for found in reversed(self.losses) if found), {})
        return next(iter(_ranked(highest)), None)

    def ask(self, left: int) -> Proposal | None:
        number = self._promotable()
        if number is None:
            drawn = self.source.ask(left)
            if drawn is not None:
                rung = 0 if self.settings else len(self.rungs) - 1
                return self._propose(drawn.settings, rung, None)
            number = self._leading()
        if number is None:
            return None
        self.promoted.add(number)
        return self._propose(self.settings[number], self.rung[number] + 1, number)

    def _promotable(self) -> int | None:
        """The best of its rung among its first 1/eta that has not gone on, highest rung first."""
        for found in reversed(self.losses[:-1]):
            for number in _ranked(found)[: len(found) // self.eta]:
                if number not in self.promoted:
                    return number
        return None

    def _leading(self) -> int | None:
        """When all has ended: the best of the highest rung whose best has not gone on."""
        if self.waiting:
            return None
        for found in reversed(self.losses[:-1]):
            best = next((number for number in _ranked(found) if number not in self.lost), None)
            if best is not None and best not in self.promoted:
                return best
        return None

    def _propose(self, settings: Settings, rung: int, after: int | None) -> Proposal:
        self.waiting.add(len(self.settings))
        self.settings.append(settings)
        self.rung.append(rung)
        self.after.append(after)
        tokens = self.rungs[rung]
        stop = {} if tokens is None else {STOP: tokens}
        return Proposal({**settings, **stop}, after, {"rung": rung})

    def tell(self, number: int, found: Found | None) -> None:
        self.waiting.discard(number)
        if found is not None:
            self.losses[self.rung[number]][number] = found["loss"]
            return
        gone: int | None = number
        while gone is not None:
            self.lost.add(gone)
            gone = self.after[gone]


def _ranked(losses: dict[int, float]) -> list[int]:
    """Numbers, the lowest loss first."""
    return sorted(losses, key=lambda number: (losses[number], number))
