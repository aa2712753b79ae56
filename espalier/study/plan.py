"""A sweep file as trials, each a whole and valid experiment; whatever is wrong shows here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from espalier.config import decode, digest, encode, refine
from espalier.data.corpus import Corpus
from espalier.errors import ConfigError, UserError
from espalier.experiment import (
    Experiment,
    apply,
    begun_from,
    fitted_to,
    load,
    pairs,
    with_room,
    with_vocabulary,
)
from espalier.study import flags, grid
from espalier.study.draft import Draft, depth
from espalier.study.reading import documents
from espalier.tree import override


@dataclass(frozen=True)
class Trial:
    """One run to be made."""

    experiment: Experiment
    settings: dict[str, Any]
    """path -> value of what the study varies, the seed left out"""

    @property
    def seed(self) -> int:
        return self.experiment.seed

    @cached_property
    def configuration(self) -> str:
        """The hash of everything but the seed: what replicates have in common."""
        return digest(refine(self.experiment, {"seed": 0}))

    @property
    def key(self) -> str:
        """Its identity, and its name on disk."""
        return f"{self.configuration}-s{self.seed}"


def read(file: Path, overrides: Sequence[str] = ()) -> list[Trial]:
    """The trials of a sweep file, equal ones once; `overrides` go on top of each.

    Raises ConfigError with file and line for the first mistake in any of them.
    """
    found = documents(file)
    drafts: list[Draft] = []
    original = [document for document in found if not grid.is_ours(document)]
    if original:
        drafts += flags.drafts(original)
    for document in found:
        drafts += grid.drafts(document) if grid.is_ours(document) else []
    refuse_collapse(drafts, overrides)
    resolver = Resolver(overrides)
    differing = _differing(drafts) - _fixed(overrides)
    trials = (Trial(resolver(draft), _varied(draft, differing)) for draft in drafts)
    return list({trial.key: trial for trial in trials}.values())


def _varied(draft: Draft, differing: set[str]) -> dict[str, Any]:
    """What its document varies, and what is otherwise in another document."""
    paths = dict.fromkeys([*draft.swept, *(path for path in draft.settings if path in differing)])
    return {path: draft.settings[path] for path in paths if path != "seed"}


def _differing(drafts: Sequence[Draft]) -> set[str]:
    """The paths that some drafts set to something else than others, or not at all."""
    values: dict[str, list[str]] = {}
    for draft in drafts:
        for path, value in draft.settings.items():
            values.setdefault(path, []).append(json.dumps(value, sort_keys=True))
    whole = len(drafts)
    return {path for path, one in values.items() if len(set(one)) > 1 or len(one) < whole}


def _fixed(overrides: Sequence[str]) -> set[str]:
    return {path for text in overrides for path, _ in pairs(text)}


def refuse_collapse(drafts: Sequence[Draft], overrides: Sequence[str]) -> None:
    """ConfigError where an override would make one value of what the drafts vary.

    One of the very path, or of what it is a field of; a field of what is varied may be fixed.
    """
    for path in sorted({path for draft in drafts for path in draft.swept}):
        for fixed in sorted(_fixed(overrides)):
            if f"{path}.".startswith(f"{fixed}."):
                raise ConfigError(
                    f"{path} is varied by the file: an override of {fixed} would make it one value"
                )


class Resolver:
    """Drafts to experiments; what neighbours have in common is worked out once."""

    def __init__(self, overrides: Sequence[str]):
        self.overrides = overrides
        self.known: dict[str, Experiment] = {}
        self.corpora: dict[str, Corpus] = {}

    def __call__(self, draft: Draft) -> Experiment:
        experiment, trail = self._begin(draft), f"{draft.recipe}\n{draft.init}"
        for path in sorted(draft.settings, key=depth):
            value = draft.settings[path]
            trail += f"\n{path}={json.dumps(value)}"
            if trail not in self.known:
                place = draft.places.get(path, draft.where)
                self.known[trail] = _laid_on(experiment, path, value, place)
            experiment = self.known[trail]
        return self._on_corpus(apply(experiment, self.overrides), draft)

    def _begin(self, draft: Draft) -> Experiment:
        """The recipe, with the model of `init` where the file names one."""
        trail = f"{draft.recipe}\n{draft.init}"
        if trail not in self.known:
            try:
                recipe = load(draft.recipe)
                self.known[trail] = begun_from(recipe, draft.init) if draft.init else recipe
            except UserError as error:
                raise ConfigError(f"{draft.where}: {error}") from None
        return self.known[trail]

    def _on_corpus(self, experiment: Experiment, draft: Draft) -> Experiment:
        """With its vocabulary; a corpus that is not there, or has more tokens than the model, ends
        it here, not in every trial."""
        data = experiment.data
        places: list[str | None] = [one.corpus for one in data.mixture] or [data.corpus]
        for place in places:
            if place is None:
                raise ConfigError(
                    f"{draft.where}: no corpus; add data.corpus=DIR to the command line, "
                    "or to the file under set"
                )
            if place not in self.corpora:
                self.corpora[place] = Corpus.open(place)
        if experiment.train.eval_only:
            raise UserError(f"{draft.where}: train.eval_only trains nothing; use espalier evaluate")
        whole = with_room(experiment) if draft.init else with_vocabulary(experiment)
        try:
            fitted_to(whole, self.corpora[str(places[0])])
        except UserError as error:
            raise ConfigError(f"{draft.where}: {error}") from None
        return whole


def _laid_on(experiment: Experiment, path: str, value: Any, place: str) -> Experiment:
    try:
        return decode(Experiment, override(encode(experiment), path, value))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
