"""What a model may name: runs of its study, shipped recipes, and what a person named for it.

Each rule takes a text that the model wrote and gives what the command line is told; anything else
is a UserError, whose sentence the model reads. Nothing that could be code gets through: no path of
a part, no dotted module, no .py.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier import catalog
from espalier.errors import UserError, nearest
from espalier.tree import parse_value

OWN = ("log.jsonl", "report.md", "lock")  # the study's files, which no tool writes
SOURCES = ("python-stdlib", "shakespeare", "arithmetic")  # `prepare` makes these by itself
TOKENIZERS = ("char", "byte", "bpe", "sentencepiece", "gpt2")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_,:+-]*")

# Overrides that are texts or patterns; of all others a value with a dot or a slash names a file.
TEXTS = ("train.freeze*", "train.lora.targets*", "train.sample.prompts*")
READS = ("data.corpus", "data.mixture.*.corpus", "train.loss.teacher")


@dataclass(frozen=True)
class Place:
    """A study, the only directory that is written, and what else may be read, by name."""

    study: Path
    named: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Path, reads: tuple[str, ...]) -> Place:
        """`reads` are paths, or ids of published models; each also goes by its last part."""
        named = {}
        for one in reads:
            place = Path(one)
            if place.is_absolute() and not place.exists():
                raise UserError(f"--read {one}: nothing is there")
            target = str(place.resolve()) if place.exists() else one
            named[place.name] = named[target] = target
        return cls(study.resolve(), named)

    def inside(self, text: str) -> Path | None:
        """The place in the study that `text` names, links followed; None where it leads out."""
        try:
            target = (self.study / text).resolve()
        except (OSError, RuntimeError):
            return None
        return target if target.is_relative_to(self.study) else None

    def readable(self, text: str) -> str:
        """A path in the study, or one named by a person, or below it."""
        if text in self.named:
            return self.named[text]
        target = self.inside(text)
        if target is not None and target.exists():
            return str(target)
        outside = Path(text).resolve() if Path(text).is_absolute() else None
        for one in set(self.named.values()):
            below = outside is not None and outside.is_relative_to(one)
            if outside is not None and below and Path(one).is_dir() and outside.exists():
                return str(outside)
        raise UserError(f"{text} is not here: read what is in the study, or {self.choice()}")

    def unfound(self) -> list[str]:
        """What was named and is no path here: the id of a model, or a mistake."""
        return sorted(one for one in set(self.named.values()) if not Path(one).is_absolute())

    def choice(self) -> str:
        return ", ".join(sorted(set(self.named.values()))) or "nothing else"


Rule = Callable[[Place, str], str]


def run(place: Place, text: str) -> str:
    """A run of the study, or something in it."""
    target = place.inside(text)
    if target is None:
        raise UserError(f"{text} is outside the study")
    if not target.exists():
        there = [one.parent.name for one in place.study.glob("*/config.yaml")]
        hint = nearest(text, there) or f" Runs: {', '.join(sorted(there)) or 'none yet'}."
        raise UserError(f"no run {text} in the study.{hint}")
    return str(target.relative_to(place.study))


def new(place: Place, text: str) -> str:
    """A place in the study to write to."""
    target = place.inside(text)
    if target is None or target == place.study:
        raise UserError(
            f"{text} is outside the study, which is the only place to write: say a name"
        )
    inner = target.relative_to(place.study)
    if inner.parts[0] in OWN:
        raise UserError(f"{text} is the study's own: take another name")
    return str(inner)


def reads(place: Place, text: str) -> str:
    if text.endswith(".py"):
        raise UserError(f"{text} is code, which is not run here")
    return place.readable(text)


def source(place: Place, text: str) -> str:
    """What `prepare` reads: a text of its own, or a readable place."""
    return text if text in SOURCES else reads(place, text)


def model(place: Place, text: str) -> str:
    """A run of the study, or a model that a person named."""
    return place.named[text] if text in place.named else run(place, text)


def recipe(place: Place, text: str) -> str:
    """A shipped recipe, a run of the study, or a file that a person named."""
    if text in catalog.recipes():
        return text
    if text in place.named:
        return place.named[text]
    target = place.inside(text)
    if target is not None and (target / "config.yaml").is_file():
        return str(target.relative_to(place.study) / "config.yaml")
    hint = nearest(text, catalog.recipes())
    raise UserError(f"no recipe '{text}'.{hint} The tool `recipes` lists them")


def tokenizer(place: Place, text: str) -> str:
    if text in TOKENIZERS:
        return text
    if text in place.named or (place.inside(text) or Path()).is_dir():
        return place.readable(text)
    raise UserError(f"tokenizer is a corpus or one of {', '.join(TOKENIZERS)}; got {text!r}")


def word(place: Place, text: str) -> str:
    """A name without dots or slashes; `new` would write files."""
    if text == "new" or not WORD.fullmatch(text):
        raise UserError(f"{text!r} is not a name known here")
    return text


def text(place: Place, value: str) -> str:
    """Any text that does not stand for a file's."""
    if value.startswith("FILE:"):
        raise UserError("texts are given as they are, not as FILE:")
    return value


def override(place: Place, text: str) -> str:
    """`path=value` whose value names no file but one that may be read, and no code at all."""
    path, equals, value = text.partition("=")
    if not equals or not path or text.startswith("-"):
        raise UserError(f"'{text}' is not an override; write path=value, such as seed=7")
    before = parse_value(value)
    after = _walk(place, path, before)
    return text if after == before else f"{path}={json.dumps(after)}"


def _walk(place: Place, path: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _walk(place, f"{path}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(place, f"{path}.{i}", item) for i, item in enumerate(value)]
    return _leaf(place, path, value) if isinstance(value, str) else value


def _leaf(place: Place, path: str, value: str) -> str:
    def fits(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

    if fits(TEXTS):
        return value
    if fits(READS):
        return reads(place, value)
    if path == "train.init":
        return model(place, value)
    if path == "evaluate.against":
        return recipe(place, value)
    if re.search(r"[./\\~]", value):
        raise UserError(
            f"{path}={value}: takes a part of the package here, no file and no module "
            "(the tool `parts` lists them)"
        )
    return value
