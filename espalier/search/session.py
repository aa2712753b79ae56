"""A search under way: asks its strategy, has trials run, tells their results, keeps the record."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from espalier.durable import write_whole
from espalier.errors import ConfigError
from espalier.search import goals
from espalier.search.log import Asked, Log, Told
from espalier.search.plan import Plan
from espalier.search.slots import Found, Proposal, Strategy
from espalier.study import pareto
from espalier.study.book import COMPLETE, FAILED, Book, outcome, told
from espalier.study.plan import Trial
from espalier.study.pool import Event, SetAside
from espalier.tree import dump

ACCOUNT = "iterations.yaml"
MISSES = 200  # proposals in a row that nothing new came of, before a search gives up
OWN_FAULT = 2  # exit code of a trial whose configuration is to blame; others may be tried again


class Runner(Protocol):
    """What runs trials: `espalier.study.pool.Pool`."""

    waiting: list[Trial]
    """more may be put here between two events of `run`"""

    def run(
        self, trials: Sequence[Trial], interrupted: Callable[[], bool] = ...
    ) -> Iterator[Event | SetAside]: ...


class Session:
    """One call of a search. `width`: how many trials can run at once.

    The record is replayed first: the strategy is asked and told again what it was asked and told,
    and so comes to its state. Where it asks for something else or other trials come of that,
    because the file, an override or the recipe has changed, where a result lacks what is wanted
    now, or where a run is gone, the record ends (`cut` is the proposal) and the search goes on
    from there.
    """

    def __init__(self, plan: Plan, strategy: Strategy, book: Book, pool: Runner, width: int):
        self.plan, self.strategy, self.book, self.pool = plan, strategy, book, pool
        self.width, self.log = width, Log(book.place)
        self.asked: list[Asked] = []
        self.told: dict[int, Told] = {}
        self.trials: dict[int, list[Trial]] = {}
        self.open: dict[int, set[str]] = {}  # keys still to come, by number
        self.given: set[str] = set()  # keys that the pool has or has had
        self.stuck: set[str] = set()  # failed by no fault of their own: for the next call
        self.needs: dict[str, int] = {}  # memory of each trial
        self.cut: int | None = None
        self.next: Proposal | None = None
        self.misses = 0
        self.account: Any = {}
        self.accounts = [book.place / ACCOUNT]  # where the strategy's own record is kept

    @property
    def left(self) -> int:
        """Configurations that may still begin."""
        return self.plan.search.trials - sum(one.fresh for one in self.asked)

    @property
    def reason(self) -> str:
        """Why there is nothing more to do; empty where something is left for the next call."""
        if self.open:
            return ""
        if self.misses >= MISSES:
            return f"{MISSES} proposals in a row were nothing new"
        return self.strategy.ended or ("" if self.left > 0 else f"{self.plan.search.trials} trials")

    def run(
        self, interrupted: Callable[[], bool] = lambda: False
    ) -> Iterator[Event | SetAside | Asked | Told]:
        """The whole search, or what is left of it. The study is held by the caller."""
        self.pool.waiting = []
        self._replay()
        yield from self._take_up()
        yield from self._ask()
        for event in self.pool.run(list(self.pool.waiting), interrupted):
            yield event
            if isinstance(event, Event) and event.state in (COMPLETE, FAILED):
                yield from self._ended(event)
                yield from self._ask()

    # the record

    def _replay(self) -> None:
        entries = self.log.entries()
        for index, entry in enumerate(entries):
            if not self._again(entry):
                self.cut, entries = entry.number, entries[:index]
                break
        self.log.keep(entries)

    def _again(self, entry: Asked | Told) -> bool:
        """Ask or tell what the record says; whether it holds."""
        if isinstance(entry, Told):
            if entry.found is not None and not self._stands(entry.number, entry.found):
                return False
            self.strategy.tell(entry.number, entry.found)
            self.told[entry.number] = entry
            return True
        # What goes on from earlier runs begins nothing, and holds however many may begin by now.
        self.next = self.strategy.ask(0 if entry.proposal.after is not None else self.left)
        if self.next is None or not entry.same(self.next):
            return False
        if entry.keys != [trial.key for trial in self._admitted(entry)[0]]:
            return False
        self.next = None
        self.asked.append(entry)
        return True

    def _stands(self, number: int, found: Found) -> bool:
        """Whether a result has all that is wanted, and its runs are there."""
        runs = [self.book.place / "runs" / key for key in self.asked[number].keys]
        return found.keys() >= set(self.plan.wanted) and None not in map(outcome, runs)

    def _take_up(self) -> Iterator[Told]:
        """What was asked and not told yet."""
        for one in self.asked:
            if one.number not in self.told:
                yield from self._give(one, self.plan.trials(one.proposal.settings))

    # asking

    def _ask(self) -> Iterator[Asked | Told]:
        while self._under_way() < self.width:
            left = self.left if self.misses < MISSES else 0
            proposal, self.next = self.next or self.strategy.ask(left), None
            if proposal is None:
                return
            yield from self._begin(proposal)

    def _under_way(self) -> int:
        return len(set().union(*self.open.values()) - self.stuck)

    def _begin(self, proposal: Proposal) -> Iterator[Asked | Told]:
        one = Asked(len(self.asked), proposal)
        trials, why = self._admitted(one)
        one.keys = [trial.key for trial in trials]
        twin = next((other for other in self.asked if trials and other.keys == one.keys), None)
        one.fresh = bool(trials) and proposal.after is None and twin is None
        if one.fresh:
            self.misses = 0
        elif proposal.after is None:
            self.misses += 1
        self.asked.append(one)
        self.log.add(one)
        yield one
        if not trials:
            yield self._tell(one.number, None, why)
        elif twin is not None and twin.number in self.told:
            yield self._tell(one.number, self.told[twin.number].found, f"as {twin.number}")
        else:
            yield from self._give(one, trials)

    def _admitted(self, one: Asked) -> tuple[list[Trial], str]:
        """The trials of a proposal; none, and why, where they make no model or are too large."""
        try:
            trials = self.plan.trials(one.proposal.settings)
            if one.number > 0:  # the baseline is measured whatever it is
                self.plan.admit(trials)
        except ConfigError as error:
            return [], str(error)
        return trials, ""

    def _give(self, one: Asked, trials: list[Trial]) -> Iterator[Told]:
        """To the pool, but for what has run or runs already."""
        self.trials[one.number] = trials
        left = [trial for trial in trials if not self._ran(trial)]
        if not left:
            yield self._conclude(one.number)
            return
        self.open[one.number] = {trial.key for trial in left}
        for trial in left:
            if trial.key in self.given:
                continue
            if one.proposal.after is not None:
                before = self.asked[one.proposal.after].keys
                self.book.inherit(trial, before[one.keys.index(trial.key)])
            self.given.add(trial.key)
            self.needs[trial.key] = self.plan.count(trial)[0].memory
            self.pool.waiting.append(trial)

    def _ran(self, trial: Trial) -> bool:
        """Whether it has come to its end; one that nobody has recorded is recorded."""
        summary = self.book.outcome(trial)
        if summary is None:
            return False
        done = (one["key"] for one in self.book.records() if one["state"] == COMPLETE)
        if trial.key not in done:
            self.book.note(COMPLETE, trial, **told(summary))
        return True

    # telling

    def _ended(self, event: Event) -> Iterator[Told]:
        key, failed = event.trial.key, event.state == FAILED
        if failed and self._code(key) != OWN_FAULT:
            self.stuck.add(key)
            return
        self.stuck.discard(key)
        for number in [number for number, keys in self.open.items() if key in keys]:
            self.open[number].discard(key)
            if failed:
                yield self._tell(number, None, event.error)
            elif not self.open[number]:
                yield self._conclude(number)

    def _code(self, key: str) -> int:
        """The exit code with which a trial has failed."""
        records = (one for one in reversed(self.book.records()) if one["key"] == key)
        return int(next(one["code"] for one in records if one["state"] == FAILED))

    def _conclude(self, number: int) -> Told:
        trials = self.trials[number]
        found = goals.measured(self.book, trials, self.plan.wanted)
        if found is None:
            return self._tell(number, None, "no finite loss")
        return self._tell(number, {**self.plan.count(trials[0])[1], **found}, "")

    def _tell(self, number: int, found: Found | None, why: str) -> Told:
        entry = Told(number, found, why)
        self.open.pop(number, None)
        self.told[number] = entry
        self.log.add(entry)
        self.strategy.tell(number, found)
        self._write_account()
        return entry

    def _write_account(self) -> None:
        """What the strategy keeps of its way, where that has changed."""
        own = self.strategy.account
        account = {**own, "stop_reason": self.reason} if own else {}
        if account != self.account:
            self.account = account
            for file in self.accounts:
                write_whole(file, dump(account))

    # what was found

    @property
    def known(self) -> dict[int, Found]:
        """Every result within the limits, by number; equal experiments once."""
        found: dict[int, Found] = {}
        for number, one in sorted(self.told.items()):
            if one.found is not None and not one.why and self._within(one.found):
                found[number] = one.found
        return found

    def _within(self, found: Found) -> bool:
        return all(found[name] <= most * (1 + 1e-9) for name, most in self.plan.limits.items())

    @property
    def best(self) -> int | None:
        """The strategy's own choice, or the lowest first objective."""
        known, first = self.known, self.plan.search.objectives[0]
        chosen = self.strategy.chosen
        if chosen in known:
            return chosen
        return min(known, key=lambda number: (known[number][first], number), default=None)

    @property
    def front(self) -> list[int]:
        """The numbers of the results that no other dominates."""
        names = self.plan.search.objectives
        return pareto.front({n: [found[name] for name in names] for n, found in self.known.items()})
