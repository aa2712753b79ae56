"""What a process of Python is told, so that it begins a trial or goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from espalier.study.book import Book
    from espalier.study.plan import Trial


class Orders(NamedTuple):
    """Arguments of Python, for a run that is not there yet and for one that has begun."""

    begin: tuple[str, ...]
    again: tuple[str, ...]


Command = Callable[["Trial", "Book", str], Orders]
"""The orders of a trial on a device."""


def train(trial: Trial, book: Book, device: str) -> Orders:
    """`espalier train`, of the recipe that the trial has in the book."""
    place = str(book.run(trial))
    verb, how = ("-m", "espalier", "train"), ("--device", device, "--json")
    begin = (*verb, str(book.recipe(trial)), "--out", place, *how)
    return Orders(begin, (*verb, "--resume", place, *how))
