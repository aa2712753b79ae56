"""Which verbs are tools, and which of their arguments a model may set.

Arguments that can only hold numbers, switches and words of a fixed list are offered as they are;
one that holds text is offered with the rule that reads it, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from espalier.agent import rules, signature
from espalier.agent.rules import Place, Rule
from espalier.agent.signature import Argument
from espalier.errors import UserError

QUICK, LONG = 120.0, 3600.0  # seconds that a verb may take, unless less is left


@dataclass(frozen=True)
class Offer:
    """How a verb is offered."""

    rules: Mapping[str, Rule] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    seconds: float = LONG


OFFERS: Mapping[str, Offer] = {
    "recipes": Offer(seconds=QUICK),
    "parts": Offer({"slot": rules.word, "more": rules.word}, seconds=QUICK),
    "check": Offer({"recipe": rules.recipe, "overrides": rules.override}, seconds=QUICK),
    "prepare": Offer(
        {"source": rules.source, "tokenizer": rules.tokenizer, "out": rules.new},
        without=("overwrite", "processes"),
    ),
    "import": Offer({"source": rules.model, "corpus": rules.reads, "out": rules.new}, ("all",)),
    "train": Offer(
        {
            "recipe": rules.recipe,
            "overrides": rules.override,
            "out": rules.new,
            "init": rules.model,
            "resume": rules.run,
        },
        without=("overwrite", "timing_steps"),
        seconds=math.inf,
    ),
    "sample": Offer(
        {"run": rules.run, "prompt": rules.text, "stop": rules.text},
        without=("interactive", "record"),
    ),
    "evaluate": Offer({"runs": rules.run, "corpus": rules.reads, "behaviour": rules.word}),
    "analyze": Offer(
        {
            "run": rules.run,
            "against": rules.run,
            "corpus": rules.reads,
            **dict.fromkeys(("steps", "only", "sort", "filter", "columns"), rules.text),
        }
    ),
    "prune": Offer(
        {
            "runs": rules.run,
            "corpus": rules.reads,
            "calibration": rules.reads,
            "out": rules.new,
            "chart": rules.new,
            "method": rules.word,
            "levels": rules.text,
            "pattern": rules.text,
        }
    ),
    "report": Offer({"source": rules.run}, seconds=QUICK),
    "doctor": Offer(seconds=QUICK),
}


@dataclass(frozen=True)
class Tool:
    """A verb as a tool: its schema for the model, and a call as words of the command line."""

    name: str
    summary: str
    declared: Mapping[str, Argument]
    offer: Offer

    @cached_property
    def arguments(self) -> dict[str, Argument]:
        """What may be set."""
        wanted = self.offer.rules
        return {
            name: one
            for name, one in self.declared.items()
            if (one.closed or name in wanted) and name not in self.offer.without
        }

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: dict(one.schema) for name, one in self.arguments.items()},
            "required": [name for name, one in self.arguments.items() if one.required],
            "additionalProperties": False,
        }

    def values(self, given: Mapping[str, Any], place: Place) -> dict[str, list[Any]]:
        """Each argument's values as the rules let them through; UserError says what is wrong."""
        for name in given:
            signature.known(name, list(self.arguments), f"argument of {self.name}")
        missing = [n for n, one in self.arguments.items() if one.required and given.get(n) is None]
        if missing:
            raise UserError(f"{self.name} needs {' and '.join(missing)}")
        found = {}
        for name, value in given.items():
            if value is None:
                continue
            listed = signature.values(self.arguments[name], value)
            rule = self.offer.rules.get(name)
            found[name] = listed if rule is None else [rule(place, one) for one in listed]
        return found

    def words(self, values: Mapping[str, Sequence[Any]], device: str) -> list[str]:
        """The command line, positional arguments in their order."""
        found = [self.name]
        for name, one in self.declared.items():
            if not one.flag:
                spelled = one.words(values.get(name, ()))
                if any(text.startswith("-") for text in spelled):
                    raise UserError(f"{name} cannot begin with a dash")
                found += spelled
        for name, listed in values.items():
            one = self.declared[name]
            found += one.words(listed) if one.flag else []
        return [*found, f"--device={device}"] if "device" in self.declared else found


def tools(verb: Callable[[str], Callable[..., Any]]) -> dict[str, Tool]:
    """Every tool by name; `verb` gives the function of a verb."""
    found = {}
    for name, offer in OFFERS.items():
        summary, declared = signature.describe(name, verb(name))
        found[name] = Tool(name, summary, declared, offer)
    return found
