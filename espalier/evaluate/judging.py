"""Behaviour suites put to a model: the score of every item, and what they come to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from espalier.engine.text import Session
from espalier.errors import UserError
from espalier.evaluate.answers import Speaker
from espalier.evaluate.likelihood import Scorer
from espalier.evaluate.loss import Autocast
from espalier.evaluate.suites import CHOOSING, Item, Rule, Suite
from espalier.intervals import Interval, ratio, wilson

GRAM = 4  # words
PERIODS, TIMES = 16, 3  # a loop: a unit of at most so many words, at least so often at the end


@dataclass(frozen=True)
class Judged:
    """One item: its value by its rule, and what it comes from."""

    item: Item
    rule: Rule
    value: float
    told: dict[str, Any] = field(default_factory=dict)


class Judge:
    """Asks greedily: no temperature and no seed change what comes out.

    An item that the tokenizer cannot write is left out and counted.
    """

    def __init__(self, session: Session, rows: int, autocast: Autocast = contextlib.nullcontext):
        self.session, self.autocast = session, autocast
        self.score = Scorer(session.model, session.block_size, rows, autocast)
        self.speak = Speaker(session.model, session.tokenizer, session.block_size, rows)

    def __call__(
        self, suite: Suite, seed: int, between: Callable[[int], None] = lambda done: None
    ) -> dict[str, Any]:
        """What the suite's record holds; `between(items done)` may raise."""
        ready = [item for item in suite.items if self._writes(item)]
        by_rule: dict[Rule, list[Item]] = {}
        for item in ready:
            by_rule.setdefault(item.rule or suite.rule, []).append(item)
        judged: dict[Rule, list[Judged]] = {}
        for rule, items in by_rule.items():
            judge = self._choices if rule in CHOOSING else self._answers
            judged[rule] = judge(items, rule, suite)
            between(len(items))
        between(len(suite.items) - len(ready))
        return {
            "about": suite.about,
            "items": len(suite.items),
            "unwritable": len(suite.items) - len(ready),
            "cut": sum(self._cut(item, suite) for item in ready),
            "scores": {rule: summary(found, seed) for rule, found in judged.items()},
            "answers": [described(one) for found in judged.values() for one in found],
        }

    def _writes(self, item: Item) -> bool:
        try:
            for text in (*item.asked, *item.choices):
                self.session.tokenizer.encode(text)
        except UserError:
            return False
        return True

    def _cut(self, item: Item, suite: Suite) -> bool:
        """Whether the model's block is too small for all of the prompt."""
        longest = max((len(self.session.encode(choice)) for choice in item.choices), default=0)
        room = self.session.block_size - (longest - 1 if longest else suite.max_new_tokens)
        return any(len(self.session.encode(text)) > max(1, room) for text in item.asked)

    def _answers(self, items: list[Item], rule: Rule, suite: Suite) -> list[Judged]:
        prompts = [self.session.encode(item.asked[0]) for item in items]
        with self.autocast():
            texts = self.speak(prompts, suite.max_new_tokens, suite.stop)
        found = []
        for item, text in zip(items, texts, strict=True):
            told: dict[str, Any] = {"answer": text}
            if rule == "repetition":
                told["loop"] = loops(text.split())
                value = repeated(text.split())
            elif rule == "exact":
                value = float(text.strip() in {one.strip() for one in item.right})
            else:
                value = float(any(one.casefold() in text.casefold() for one in item.right))
            found.append(Judged(item, rule, value, told))
        return found

    def _choices(self, items: list[Item], rule: Rule, suite: Suite) -> list[Judged]:
        pairs = [
            (self.session.encode(prompt), self.session.encode(choice))
            for item in items
            for prompt in item.asked
            for choice in item.choices
        ]
        scores = iter(self.score(pairs))
        found = []
        for item in items:
            rows = [[next(scores).total for _ in item.choices] for _ in item.asked]
            place = item.choices.index(item.right[0])
            picks = [item.choices[int(np.argmax(row))] for row in rows]
            shares = [share(row, place) for row in rows]
            if rule == "choice":
                told = {"picked": picks[0], "probability": shares[0]}
                found.append(Judged(item, rule, float(picks[0] == item.right[0]), told))
            else:
                told = {"picked": picks, "probability": shares}
                found.append(Judged(item, rule, max(shares) - min(shares), told))
        return found


def share(totals: Sequence[float], place: int) -> float:
    """The probability of one of several continuations, given that it is one of them."""
    most = max(totals)
    weights = [math.exp(total - most) for total in totals]
    return weights[place] / sum(weights)


def repeated(words: Sequence[str]) -> float:
    """The share of 4-grams that stood in the text before; 0 for a text too short to repeat."""
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loops(words: Sequence[str]) -> bool:
    """Whether the text ends in the same few words again and again."""
    for period in range(1, min(PERIODS, len(words) // TIMES) + 1):
        tail = list(words[-period * TIMES :])
        if all(tail[i] == tail[i % period] for i in range(len(tail))):
            return True
    return False


def summary(found: Sequence[Judged], seed: int) -> dict[str, Any]:
    """The mean of a rule's items and its 95 % interval: Wilson's for shares, else the bootstrap."""
    rule = found[0].rule
    values = np.array([one.value for one in found])
    if rule in ("repetition", "spread"):
        made: dict[str, Any] = _told(ratio(values, np.ones(len(values)), seed), "bootstrap")
    else:
        made = _told(wilson(int(values.sum()), len(values)), "Wilson")
    made |= {"items": len(found), "better": "lower" if made["by"] == "bootstrap" else "higher"}
    if rule == "choice":
        made["chance"] = float(np.mean([1 / len(one.item.choices) for one in found]))
    if rule == "repetition":
        made["loops"] = _told(wilson(sum(one.told["loop"] for one in found), len(found)), "Wilson")
    if rule == "spread":
        right = [pick == one.item.right[0] for one in found for pick in one.told["picked"]]
        made["right"] = sum(right) / len(right)
    return made


def _told(interval: Interval, by: str) -> dict[str, Any]:
    return {**interval._asdict(), "by": by}


def described(one: Judged) -> dict[str, Any]:
    """In JSON, for whoever wants to read the answers."""
    prompt: Any = list(one.item.asked) if one.item.prompts else one.item.prompt
    return {"prompt": prompt, "expected": list(one.item.right), "rule": one.rule,
            "value": one.value, **one.told}  # fmt: skip
