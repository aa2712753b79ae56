"""ReaLLM-Forge's flags in our paths; whatever has none is named, all of it, before any run."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from espalier import translate
from espalier.config import Config, decode
from espalier.errors import ConfigError, nearest
from espalier.study import expand
from espalier.study.draft import Draft
from espalier.study.reading import Document
from espalier.tree import read_yaml

Pairs = list[tuple[str, Any]]


class Named(Config):
    """A flag whose values have other names here."""

    path: str
    values: dict[str, Any]


class More(Config):
    """A flag whose number is another here."""

    path: str
    plus: int


class Together(Config):
    """Flags that make one choice: their defaults there, and our value for each combination."""

    flags: dict[str, Any]
    path: str
    cases: tuple[tuple[Any, ...], ...]


class Table(Config):
    """flags.yaml."""

    recipe: str
    defaults: dict[str, Any]
    paths: dict[str, str]
    named: dict[str, Named]
    more: dict[str, More]
    together: tuple[Together, ...]
    elsewhere: tuple[str, ...]

    def known(self) -> list[str]:
        joined = itertools.chain(*(group.flags for group in self.together))
        own = [*self.paths, *self.named, *self.more, *joined, *self.elsewhere]
        return sorted({*own, *translate.known()})


@cache
def table() -> Table:
    return decode(Table, read_yaml(Path(__file__).with_name("flags.yaml")).tree)


def drafts(documents: Sequence[Document]) -> list[Draft]:
    """The runs of documents in the original's form.

    ConfigError names every flag, and every value, that has no equal here.
    """
    whole = [(document, one) for document in documents for one in expand.combinations(document)]
    problems: dict[str, None] = {}
    found = [_draft(document, flags, problems) for document, flags in whole]
    if problems:
        raise ConfigError("\n".join(["nothing was run; not translated:", *problems]))
    return found


def _draft(document: Document, flags: Mapping[str, Any], problems: dict[str, None]) -> Draft:
    known = table()
    settings, places = dict(known.defaults), {}
    varied, moving = expand.swept(document), []
    for keys, pairs in _translated(document, flags, problems):
        for path, value in pairs:
            settings[path] = value
            places[path] = document.at(keys[0])
            if varied.intersection(keys):
                moving.append(path)
    return Draft(known.recipe, settings, tuple(dict.fromkeys(moving)), places, document.at())


def _translated(
    document: Document, flags: Mapping[str, Any], problems: dict[str, None]
) -> Iterator[tuple[list[str], Pairs]]:
    """Flags with what they come to; those that come to nothing go into `problems`."""
    joint = {key for group in table().together for key in group.flags}
    for key, value in flags.items():
        if key in joint:
            continue
        try:
            yield [key], pairs_of(key, value)
        except ConfigError as error:
            problems[f"  {document.at(key)}: {error}"] = None
    for group in table().together:
        said = [key for key in group.flags if key in flags]
        if not said:
            continue
        try:
            yield said, [(group.path, _choice(group, flags))]
        except ConfigError as error:
            problems[f"  {document.at(said[0])}: {error}"] = None


def pairs_of(key: str, value: Any) -> Pairs:
    """One flag as `path, value` pairs; a path of ours stands for itself."""
    known = table()
    if "." in key:
        return [(key, value)]
    if key in known.elsewhere:
        return []
    if key in known.paths:
        return [(known.paths[key], value)]
    if key in known.more:
        row = known.more[key]
        if not isinstance(value, int):
            raise ConfigError(f"{key}={value} is not a whole number")
        return [(row.path, value + row.plus)]
    if key in known.named:
        names = known.named[key].values
        if str(value) not in names:
            raise ConfigError(f"{key}={value}. Here are: {', '.join(names)}")
        return [(known.named[key].path, names[str(value)])]
    if key in translate.known():
        return translate.flag(key, value, key)
    raise ConfigError(f"{key}.{nearest(key, known.known())}")


def _choice(group: Together, flags: Mapping[str, Any]) -> Any:
    wanted = [flags.get(key, default) for key, default in group.flags.items()]
    for *case, ours in group.cases:
        if case == wanted:
            return ours
    said = ", ".join(f"{k}={v}" for k, v in zip(group.flags, wanted, strict=True))
    raise ConfigError(f"{said} together")
