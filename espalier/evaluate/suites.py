"""Behaviour suites: small questions as data, in `behaviour/*.yaml` and in files of one's own.

A suite says what it asks and how an answer is judged; an item says its prompt (or several that ask
the same), what is expected, and may be judged by a rule of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from espalier.config import Config, decode
from espalier.errors import UserError, nearest
from espalier.tree import read_yaml

FOLDER = Path(__file__).parent / "behaviour"

Rule = Literal["exact", "contains", "choice", "repetition", "spread"]
CHOOSING: tuple[Rule, ...] = ("choice", "spread")
ANSWERING: tuple[Rule, ...] = ("exact", "contains")


class Item(Config):
    """One question."""

    prompt: str | None = None
    """what the model goes on from"""
    prompts: tuple[str, ...] = ()
    """several ways to ask the same, for the rule spread"""
    expected: tuple[str, ...] | str = ()
    """the right answer, or several that are as good"""
    choices: tuple[str, ...] = ()
    """for choice and spread: all continuations, the expected one among them"""
    rule: Rule | None = None
    """the suite's when left out"""

    @property
    def asked(self) -> tuple[str, ...]:
        return self.prompts if self.prompt is None else (self.prompt,)

    @property
    def right(self) -> tuple[str, ...]:
        return (self.expected,) if isinstance(self.expected, str) else self.expected


class Suite(Config):
    """Questions about one ability."""

    about: str
    """one sentence: what the suite looks at"""
    rule: Rule
    """exact: the answer is the expected text; contains: it holds it; choice: the expected
    continuation is the likeliest of the choices; repetition: the share of the answer's word
    4-grams that stood in it before; spread: how far the expected choice's probability among the
    choices goes apart over the prompts"""
    max_new_tokens: int = Field(default=16, ge=1)
    """of an answer"""
    stop: tuple[str, ...] = ("\n",)
    """an answer ends before one of these"""
    items: tuple[Item, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for number, item in enumerate(self.items):
            if problem := _problem(item, item.rule or self.rule):
                raise ValueError(f"item {number}: {problem}")
        return self


def _problem(item: Item, rule: Rule) -> str | None:
    if (item.prompt is None) == (not item.prompts):
        return "give prompt, or prompts"
    if not all(item.asked):
        return "a prompt is empty"
    if rule == "spread" and len(item.prompts) < 2:
        return "spread compares prompts: give two at least"
    if rule != "spread" and item.prompts:
        return f"{rule} takes one prompt"
    if rule in CHOOSING:
        if len(item.choices) < 2 or len(item.right) != 1 or item.right[0] not in item.choices:
            return f"{rule} needs two choices at least, and expected is one of them"
    elif rule in ANSWERING and not (item.right and all(item.right)):
        return f"{rule} needs what is expected"
    return None


def shipped() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read(names: str) -> dict[str, Suite]:
    """Of `all`, or of names and files with commas between them."""
    words = shipped() if names == "all" else [word.strip() for word in names.split(",")]
    return {Path(word).stem: _one(word) for word in words if word}


def _one(word: str) -> Suite:
    if word in shipped():
        file = FOLDER / f"{word}.yaml"
    elif word.endswith((".yaml", ".yml")):
        file = Path(word)
    else:
        raise UserError(
            f"no behaviour suite '{word}'.{nearest(word, shipped())} Known: "
            f"{', '.join(shipped())}, all, or a .yaml file of your own"
        )
    source = read_yaml(file)
    return decode(Suite, source.tree, where=lambda path: f"{file}: ")
