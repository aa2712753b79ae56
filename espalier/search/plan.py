"""A search file, read and checked: whatever is wrong with it shows before any run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from espalier.config import Config, decode, default, digest, encode
from espalier.durable import read_json, write_json
from espalier.errors import ConfigError
from espalier.experiment import Experiment
from espalier.search import goals, space
from espalier.search.goals import Counted, Goal
from espalier.search.slots import Problem, Settings, StrategyConfig
from espalier.search.space import EACH, LAYERS, Range, Space, at, each_layer
from espalier.study.draft import Draft
from espalier.study.plan import Resolver, Trial, refuse_collapse
from espalier.study.reading import Document, documents
from espalier.study.size import Shapes, Size, sizes

KEPT = "search.json"


class Search(Config):
    """Our own form of a search."""

    recipe: str
    """the baseline: a shipped recipe or a recipe file"""
    init: str | None = None
    """fine-tune this, as train --init does: the model is its, whatever the recipe says"""
    seeds: tuple[int, ...] = ()
    """replicates of each experiment, whose mean counts; the recipe's own seed when left out"""
    set: dict[str, Any] = Field(default_factory=dict)
    """path -> value, the same in every experiment"""
    space: dict[str, Any] = Field(min_length=1)
    """path -> a list of values, or {low, high, step, log}"""
    objectives: tuple[Goal, ...] = Field(("loss",), min_length=1)
    """to be as low as can be; of several the Pareto front is sought"""
    limits: dict[Counted, float | Literal["baseline"]] = Field(default_factory=dict)
    """what is counted to be above it is never trained; `baseline`: as much as the baseline has"""
    strategy: StrategyConfig = default("tpe")
    trials: int = Field(30, ge=1)
    """different configurations in all, the baseline among them"""
    workers: int = Field(1, ge=1)
    """trials at a time, where --workers does not say"""
    seed: int = Field(0, ge=0)
    """of the strategy's own luck"""


@dataclass
class Plan:
    """What a search is to do: its file, made whole."""

    search: Search
    problem: Problem
    resolver: Resolver
    document: Document
    overrides: tuple[str, ...] = ()
    known: dict[str, tuple[Size, dict[str, float]]] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def wanted(self) -> list[str]:
        """What is to be known of each experiment."""
        own = {"parameters", "memory", *self.search.objectives}
        return sorted({*own, *self.search.limits, *self.search.strategy.needs})

    def trials(self, settings: Settings) -> list[Trial]:
        """One for each seed. ConfigError where the settings make no valid experiment."""
        seeds: Sequence[int] = self.search.seeds or (self.problem.baseline.seed,)
        laid = [{**settings, "seed": seed} for seed in seeds]
        return [Trial(self._experiment(one), settings) for one in laid]

    def at(self, place: Path) -> Problem:
        """The problem for a search whose study is at `place`."""
        return replace(self.problem, place=place)

    def admit(self, trials: Sequence[Trial]) -> dict[str, float]:
        """What is counted of an experiment before it runs.

        ConfigError where its sizes do not fit each other, or where it is above a limit.
        """
        _, facts = self.count(trials[0])
        for name, most in self.limits.items():
            if facts[name] > most * (1 + 1e-9):
                raise ConfigError(f"{facts[name]:,.6g} {name}, above the limit of {most:,.6g}")
        return facts

    def count(self, trial: Trial) -> tuple[Size, dict[str, float]]:
        """The trial's size, and all of it that somebody asks for, by name."""
        key = trial.configuration
        if key not in self.known:
            size = sizes([trial], self.shapes)[trial.key]
            self.known[key] = size, goals.counted(size, trial.experiment, self.wanted)
        return self.known[key]

    def _experiment(self, settings: Mapping[str, Any]) -> Experiment:
        return self.resolver(_draft(self.search, self.document, settings))


def read(file: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a search file of our own; `overrides` go on top of every experiment.

    Raises ConfigError with file and line for the first mistake.
    """
    return of(only(file), overrides)


def only(file: Path) -> Document:
    """The one mapping of a search file."""
    found = documents(file)
    if len(found) != 1:
        raise ConfigError(f"{file}: a search file is one mapping, got {len(found)}")
    return found[0]


def of(document: Document, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a document. Raises ConfigError."""
    search = decode(Search, document.tree, where=lambda path: f"{document.at(*path)}: ")
    resolver = Resolver(overrides)
    written = {
        path: space.values(path, one, partial(document.at, "space", path))
        for path, one in search.space.items()
    }
    varied = [*written, *(["seed"] if search.seeds else [])]
    refuse_collapse([_draft(search, document, dict.fromkeys(varied))], overrides)
    search, baseline = _in_layers(search, resolver, document)
    start = _start(search, each_layer(written, baseline.model.n_layer), resolver, document)
    problem = Problem(baseline, written, start, search.objectives, search.seed)
    search.strategy.check(problem)
    plan = Plan(search, problem, resolver, document, tuple(overrides))
    _, facts = plan.count(plan.trials({})[0])
    plan.limits = {
        name: facts[name] if most == "baseline" else float(most)
        for name, most in search.limits.items()
    }
    return plan


def keep(plan: Plan, place: Path) -> None:
    """STUDY/search.json: what is searched, for whoever takes the study up."""
    file = place / KEPT
    write_json(file, {"search": encode(plan.search), "overrides": plan.overrides})


def kept(place: Path) -> Plan:
    """The plan that a search has left in its study. Raises UserError."""
    found = read_json(place / KEPT)
    return of(Document(found["search"], {}, place / KEPT), found["overrides"])


def _draft(search: Search, document: Document, settings: Mapping[str, Any]) -> Draft:
    places = {path: document.at("set", path) for path in search.set}
    places |= {path: document.at("space", path) for path in settings}
    return Draft(
        search.recipe,
        {**search.set, **settings},
        tuple(settings),
        places,
        document.at("recipe"),
        search.init,
    )


def _in_layers(search: Search, resolver: Resolver, document: Document) -> tuple[Search, Experiment]:
    """The baseline; with an entry for each layer where the space speaks of each."""
    seed = {"seed": search.seeds[0]} if search.seeds else {}
    baseline = resolver(_draft(search, document, seed))
    if not any(path.startswith(EACH) for path in search.space):
        return search, baseline
    entries = [
        {**entry, "repeat": 1}
        for entry in encode(baseline)["model"]["layers"] or [{}] * baseline.model.n_layer
        for _ in range(entry.get("repeat", 1))
    ]
    whole = search.model_copy(update={"set": {**search.set, LAYERS: entries}})
    return whole, resolver(_draft(whole, document, seed))


def _start(search: Search, space: Space, resolver: Resolver, document: Document) -> Settings:
    """The baseline's values at the paths of the space; tries every value of the file on the way."""
    seed = {"seed": search.seeds[0]} if search.seeds else {}
    baseline = resolver(_draft(search, document, seed))
    tree, own = encode(baseline), digest(baseline)
    start: Settings = {}
    for path, one in space.items():
        for value in one.ends:
            if digest(resolver(_draft(search, document, {**seed, path: value}))) == own:
                start[path] = value
        here = at(tree, path)
        if isinstance(one, Range) and one.holds(here):
            start[path] = here
    return start
