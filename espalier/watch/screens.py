"""What lies over the table for a moment: a question, a choice of columns, all of one trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, SelectionList, Static

CLOSE = Binding("escape", "leave", "close")
STYLE = """
{name} {{ align: center middle; }}
{name} > .box {{ width: 80%; max-width: 110; height: auto; max-height: 80%; padding: 1 2;
  background: $surface; border: round $primary; }}
"""


class _Over(ModalScreen[Any]):  # type: ignore[misc]
    """Leaves with nothing on escape."""

    BINDINGS = [CLOSE]

    def action_leave(self) -> None:
        self.dismiss(None)


class Ask(_Over):
    """A line of text; None when nobody answered."""

    CSS = STYLE.format(name="Ask")

    def __init__(self, question: str, answer: str = ""):
        super().__init__()
        self.question, self.answer = question, answer

    def compose(self) -> Iterator[Any]:
        with Vertical(classes="box"):
            yield Static(self.question, markup=False)
            yield Input(self.answer)
        yield Footer()

    def on_input_submitted(self, event: Any) -> None:
        self.dismiss(event.value.strip() or None)


class Choose(_Over):
    """Which columns are in sight; they keep their order, new ones come last."""

    CSS = STYLE.format(name="Choose")
    BINDINGS = [CLOSE, Binding("c", "take", "take these")]

    def __init__(self, every: Sequence[str], chosen: Sequence[str]):
        super().__init__()
        self.every, self.chosen = every, chosen

    def compose(self) -> Iterator[Any]:
        with Vertical(classes="box"):
            yield Static("Columns: space chooses, c takes them")
            choices = [(name, name, name in self.chosen) for name in self.every]
            yield SelectionList(*choices)
        yield Footer()

    def action_take(self) -> None:
        picked = set(self.query_one(SelectionList).selected)
        kept = [name for name in self.chosen if name in picked]
        self.dismiss((*kept, *(name for name in self.every if name in picked - set(kept))))


class Details(_Over):
    """Text that scrolls."""

    CSS = STYLE.format(name="Details")

    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def compose(self) -> Iterator[Any]:
        with VerticalScroll(classes="box"):
            yield Static(self.text, markup=False)
        yield Footer()
