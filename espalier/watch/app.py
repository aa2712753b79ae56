"""The terminal's page of a study. Needs Textual; everything it shows is worked out elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.widgets import DataTable, Static

from espalier.durable import write_asked
from espalier.errors import UserError
from espalier.watch import charts, story, view
from espalier.watch.live import Live
from espalier.watch.plot import BLANK
from espalier.watch.rows import CURVE, MOVING, Row
from espalier.watch.screens import Ask, Choose, Details
from espalier.watch.view import Rule, View

BUDGET = 0.3  # seconds of reading between two pictures
SOON = 0.05  # seconds until the next picture while there is more to read
LEISURE = 4  # times as long as a picture takes, nothing is done
LONGEST = 48  # characters of a cell
GAP = chr(BLANK)  # lines are broken at every other kind of space, the no-break one too
ARROWS = {"up": "▲", "down": "▼"}


class Watcher(App[None]):  # type: ignore[misc]
    """`live` as a table; keys change the view, and nothing on the disk but what `e` writes."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; padding: 0 1; background: $boost; }
    #rows { height: 1fr; }
    #chart { height: 45%; padding: 0 1; display: none; }
    #keys { height: auto; padding: 0 1; background: $boost; }
    """
    BINDINGS = [
        Binding("q,ctrl+c", "quit", "quit"),
        Binding("s", "sort", "sort"),
        Binding("h", "hide", "hide rows like this"),
        Binding("k", "keep", "keep rows like this"),
        Binding("f", "filter", "filter"),
        Binding("u", "undo", "undo"),
        Binding("x", "drop", "drop column"),
        Binding("c", "columns", "columns"),
        Binding("less_than_sign", "move(-1)", "move column", key_display="<>"),
        Binding("greater_than_sign", "move(1)", show=False),
        Binding("space", "mark", "mark", key_display="space"),
        Binding("l", "chart('lines')", "loss curves"),
        Binding("p", "chart('scatter')", "plot column"),
        Binding("e", "export", "export"),
        Binding("escape", "chart('')", "", show=False),
    ]

    def __init__(self, live: Live, start: View, every: float):
        super().__init__()
        self.live, self.view, self.every = live, start, every
        self.past: list[View] = []
        self.marked: set[str] = set()
        self.chart = ""
        self._drawn: tuple[Any, ...] = ()
        self._seen = start  # the view that was drawn last
        self._texts: dict[tuple[str, str], Text] = {}
        self._stands: dict[str, Text] = {}

    def compose(self) -> Iterator[Any]:
        yield Static(id="head")
        yield DataTable(id="rows", zebra_stripes=True)
        yield Static(id="chart")
        yield Static(self._keys(), id="keys")

    def _keys(self) -> Text:
        """What there is to press, on as many lines as it takes."""
        shown = [one for one in self.BINDINGS if one.show]
        pairs = [(one.key_display or one.key.partition(",")[0], one.description) for one in shown]
        words = [Text.assemble((key, "bold"), GAP, what) for key, what in pairs]
        words.append(Text.assemble(("enter", "bold"), GAP, "details"))
        return Text("  ").join(words)

    def on_mount(self) -> None:
        self.title = str(self.live.place)
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.live.refresh, BUDGET)
            except OSError as error:
                self.notify(str(error), severity="error")
            start = time.monotonic()
            self.show()
            least = LEISURE * (time.monotonic() - start)
            await asyncio.sleep(max(least, self.every if self.live.read else SOON))

    # pictures

    def show(self) -> None:
        """Draw what `live` holds, as `view` wants it.

        The cursor goes with its trial, but stays where it is when the view has changed.
        """
        rows, columns = self.view.rows(self.live.rows), self.view.shows(self.live.columns)
        form = ([row.key for row in rows], columns, self.view.order)
        texts = self._cells(rows, columns)
        if form == self._drawn:
            self._amend(texts)
        else:
            self._rebuild(rows, columns, texts)
        self._drawn, self._texts, self._seen = form, texts, self.view
        self._put("head", story.head(self.live, self.view, len(rows)))
        self._draw_chart()

    def _put(self, place: str, content: Text) -> None:
        """Where it differs from what stands there: every update lays the page out again."""
        if self._stands.get(place) != content:
            self._stands[place] = content
            self.query_one(f"#{place}", Static).update(content)

    def _cells(self, rows: list[Row], columns: list[str]) -> dict[tuple[str, str], Text]:
        best = story.best(rows)
        return {(row.key, name): self._cell(row, name, best) for row in rows for name in columns}

    def _cell(self, row: Row, name: str, best: float | None) -> Text:
        text = view.shown(name, row[name])
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        if name == CURVE:
            return Text(text, "cyan")
        if name == "state":
            mark = "● " if row.key in self.marked else ""
            return Text(mark + text, story.COLOURS.get(str(row[name]), ""))
        if name == "best" and best is not None and row[name] == best:
            return Text(text, "bold green", justify="right")
        number = isinstance(row[name], (int, float))
        return Text(text, justify="right" if number else "left")

    def _amend(self, texts: dict[tuple[str, str], Text]) -> None:
        table = self.query_one(DataTable)
        for place, text in texts.items():
            if text != self._texts[place]:
                table.update_cell(*place, text, update_width=True)

    def _rebuild(
        self, rows: list[Row], columns: list[str], texts: dict[tuple[str, str], Text]
    ) -> None:
        table = self.query_one(DataTable)
        row, column = self.here()
        former, scroll = table.cursor_coordinate, table.scroll_offset
        table.clear(columns=True)
        order = {name: f" {ARROWS[way]}{i + 1}" for i, (name, way) in enumerate(self.view.order)}
        for name in columns:
            table.add_column(name + order.get(name, ""), key=name)
        for one in rows:
            table.add_row(*(texts[one.key, name] for name in columns), key=one.key)
        keys = [one.key for one in rows]
        stays = row is not None and row.key in keys and self._seen is self.view
        place = keys.index(row.key) if row is not None and stays else former.row
        table.scroll_to(*scroll, animate=False)
        table.move_cursor(
            row=place, column=columns.index(column) if column in columns else former.column
        )

    def _draw_chart(self) -> None:
        self.query_one("#chart", Static).display = bool(self.chart)
        row, column = self.here()
        if not self.chart or row is None:
            return
        size = max(20, self.size.width - 2), max(6, int(self.size.height * 0.45) - 1)
        shown = self.view.rows(self.live.rows)
        if self.chart == "scatter":
            self._put("chart", charts.scatter(shown, row, column, size))
        else:
            chosen = [one for one in shown if one.key in self.marked] or [row]
            self._put("chart", charts.curves(chosen, size))

    def here(self) -> tuple[Row | None, str]:
        """The row and the column of the cursor."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return None, ""
        key, name = table.coordinate_to_cell_key(table.cursor_coordinate)
        rows = {row.key: row for row in self.live.rows}
        return rows.get(str(key.value)), str(name.value)

    def on_data_table_cell_highlighted(self, event: Any) -> None:
        self._draw_chart()

    # keys

    def change(self, new: View) -> None:
        """Another view; `undo` goes back to this one."""
        self.past.append(self.view)
        self.view = new
        self.show()

    def action_undo(self) -> None:
        if self.past:
            self.view = self.past.pop()
            self.show()

    def action_sort(self) -> None:
        self._at_cell(lambda row, name: self.change(self.view.sorted(name)))

    def on_data_table_header_selected(self, event: Any) -> None:
        self.change(self.view.sorted(str(event.column_key.value)))

    def action_hide(self) -> None:
        self._like_this("!=")

    def action_keep(self) -> None:
        self._like_this("=")

    def _like_this(self, sign: str) -> None:
        def act(row: Row, name: str) -> None:
            if name in MOVING:
                self.notify(f"{name} changes while trials run: use f, as in {name}<2")
            else:
                self.change(self.view.ruled(Rule(name, sign, row[name])))

        self._at_cell(act)

    def action_drop(self) -> None:
        self._at_cell(lambda row, name: self.change(self.view.without(name, self.live.columns)))

    def action_move(self, places: int) -> None:
        self._at_cell(
            lambda row, name: self.change(self.view.moved(name, places, self.live.columns))
        )

    def action_mark(self) -> None:
        def act(row: Row, name: str) -> None:
            self.marked ^= {row.key}
            self.show()

        self._at_cell(act)

    def on_data_table_cell_selected(self, event: Any) -> None:
        self._at_cell(lambda row, name: self.push_screen(Details(story.details(self.live, row))))

    def action_chart(self, kind: str) -> None:
        self.chart = "" if kind == self.chart else kind
        self._draw_chart()

    def _at_cell(self, act: Callable[[Row, str], Any]) -> None:
        row, name = self.here()
        if row is not None:
            act(row, name)

    def action_columns(self) -> None:
        def take(chosen: tuple[str, ...] | None) -> None:
            if chosen:
                self.change(View(chosen, self.view.order, self.view.rules))

        every = self.live.columns
        self.push_screen(Choose(every, self.view.shows(every)), take)

    def action_filter(self) -> None:
        question = "Keep the rows where (state=failed, best<2.5, norm!=rms):"
        self._ask(question, "", lambda text: self.change(self.view.ruled(self._rule(text))))

    def _rule(self, text: str) -> Rule:
        return view.rule(text, self.live.columns)

    def action_export(self) -> None:
        place = Path(f"{self.live.place.resolve().name}.csv")

        def write(text: str) -> None:
            columns = self.view.shows(self.live.columns)
            rows = self.view.rows(self.live.rows)
            write_asked(Path(text).expanduser(), view.to_csv(columns, rows))
            self.notify(f"wrote {text}")

        self._ask("Write the rows and columns in sight to:", str(place), write)

    def _ask(self, question: str, answer: str, act: Callable[[str], None]) -> None:
        def take(text: str | None) -> None:
            try:
                if text:
                    act(text)
            except (UserError, OSError) as error:
                self.notify(str(error), severity="error")

        self.push_screen(Ask(question, answer), take)
