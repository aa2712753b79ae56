"""The page in a terminal, driven by keys; and what is printed where there is no terminal."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from espalier import cli
from espalier.watch.live import Live
from espalier.watch.view import View
from tests.study.made import Made


@pytest.fixture
def study(tmp_path: Path) -> Made:
    made = Made(tmp_path / "norms")
    for norm, loss in (("rms", 2.0), ("layer", 3.0), ("dyt", 2.5)):
        made.end({"model.block.norm": norm}, loss)
    made.begin({"model.block.norm": "spiky"})
    made.note("FAILED", {"model.block.norm": "spiky"}, error="no part of that name")
    return made


def driven(study: Made, act: Callable[[Any, Any], Awaitable[None]]) -> None:
    """`act` with the running page and its keys."""
    pytest.importorskip("textual", reason="the page needs the extra 'web'")
    from espalier.watch.app import Watcher

    async def run() -> None:
        app = Watcher(Live(study.place), View(), every=0.3)
        async with app.run_test(size=(120, 30)) as keys:
            await until(keys, lambda: app.live.read and app.screen_stack)
            await keys.pause(0.1)
            await act(app, keys)

    asyncio.run(run())


async def until(keys: Any, true: Callable[[], Any]) -> None:
    for _ in range(200):
        await keys.pause(0.02)
        if true():
            return
    raise AssertionError("it did not come")


def shown(app: Any) -> list[str]:
    """The norm of each row, from the top."""
    from textual.widgets import DataTable

    table = app.screen_stack[0].query_one(DataTable)
    return [str(table.get_cell(row, "norm")) for row in table.rows]


async def stand_on(app: Any, keys: Any, column: str) -> None:
    from textual.widgets import DataTable

    table = app.query_one(DataTable)
    table.move_cursor(row=0, column=app.view.shows(app.live.columns).index(column))
    await keys.pause()


def test_keys_sort_hide_keep_and_undo(study: Made) -> None:
    async def act(app: Any, keys: Any) -> None:
        assert shown(app) == ["rms", "layer", "dyt", "spiky"]
        await stand_on(app, keys, "best")
        await keys.press("s")
        assert shown(app) == ["rms", "dyt", "layer", "spiky"]
        await stand_on(app, keys, "norm")
        await keys.press("h")
        assert shown(app) == ["dyt", "layer", "spiky"]
        await stand_on(app, keys, "state")
        await keys.press("k")
        assert shown(app) == ["dyt", "layer"]
        await keys.press("u", "u")
        assert shown(app) == ["rms", "dyt", "layer", "spiky"]

    driven(study, act)


def test_what_is_new_on_the_disk_appears(study: Made) -> None:
    async def act(app: Any, keys: Any) -> None:
        study.end({"model.block.norm": "late"}, 1.5)
        await until(keys, lambda: "late" in shown(app))

    driven(study, act)


def test_a_study_that_has_just_begun_is_an_empty_table(tmp_path: Path) -> None:
    async def act(app: Any, keys: Any) -> None:
        await keys.press("s", "h", "p", "l", "space", "enter", "u")
        made.end({"model.block.norm": "rms"}, 2.0)
        await until(keys, lambda: app.live.rows and shown(app) == ["rms"])

    made = Made(tmp_path / "empty")
    driven(made, act)


def test_columns_are_dropped_moved_and_chosen(study: Made) -> None:
    async def act(app: Any, keys: Any) -> None:
        await stand_on(app, keys, "age")
        await keys.press("x")
        assert "age" not in app.view.shows(app.live.columns)
        await stand_on(app, keys, "norm")
        await keys.press(*["less_than_sign"] * 9)
        assert app.view.shows(app.live.columns)[0] == "norm"
        await keys.press("c", "space", "c")  # the first of the list, state, goes
        assert "state" not in app.view.shows(app.live.columns)

    driven(study, act)


def test_a_filter_is_typed_and_a_wrong_one_is_said(study: Made) -> None:
    async def act(app: Any, keys: Any) -> None:
        await keys.press("f", *"best<2.6", "enter")
        assert shown(app) == ["rms", "dyt"]
        await keys.press("f", *"nrom=rms", "enter")
        await keys.pause()
        assert next(note.message for note in app._notifications).startswith("no column 'nrom'")
        assert shown(app) == ["rms", "dyt"]

    driven(study, act)


def test_a_table_is_exported_as_it_is_seen(
    study: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(app: Any, keys: Any) -> None:
        monkeypatch.chdir(tmp_path)
        await keys.press("f", *"state=failed", "enter", "e", "enter")
        await keys.pause()
        lines = (tmp_path / "norms.csv").read_text("utf-8").splitlines()
        assert lines[0].startswith("state,age,best,loss,train,done,norm")
        assert len(lines) == 2
        assert lines[1].endswith("no part of that name")

    driven(study, act)


def test_charts_and_details_show_what_is_under_the_cursor(study: Made) -> None:
    async def act(app: Any, keys: Any) -> None:
        from textual.widgets import Static

        chart = app.query_one("#chart", Static)
        assert not chart.display
        await stand_on(app, keys, "norm")
        await keys.press("p")
        assert chart.display
        assert "best over norm" in str(chart.content)
        await keys.press("space", "down", "space", "l")
        assert "rms-s1" in str(chart.content)
        assert "layer-s1   validation loss over step" in str(chart.content)
        await keys.press("escape")
        assert not chart.display
        await keys.press("enter")
        assert "parameters  1,000" in app.screen.text

    driven(study, act)


def test_without_a_terminal_the_table_is_printed_once(
    study: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["watch", str(study.place), "--sort", "-best", "--where", "state=complete"]
    assert cli.main([*line, "--columns", "norm,best"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "norm   best",
        "layer  3.0000",
        "dyt    2.5000",
        "rms    2.0000",
    ]
    assert cli.main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["norm"] for row in found["rows"]] == ["layer", "dyt", "rms"]
    assert found["states"] == {"COMPLETE": 3, "FAILED": 1}


def test_rows_are_written_as_csv(study: Made, tmp_path: Path) -> None:
    place = tmp_path / "rows.csv"
    line = ["watch", str(study.place), "--columns", "norm,best", "--csv", str(place)]
    assert cli.main(line) == 0
    assert place.read_text("utf-8").splitlines()[:2] == ["norm,best", "rms,2.0"]


def test_on_a_terminal_too_the_csv_has_every_trial_whole(
    study: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.console.on_terminal", lambda stream: True)
    place = tmp_path / "rows.csv"
    line = ["watch", str(study.place), "--where", "state=complete", "--columns", "norm,train"]
    assert cli.main([*line, "--csv", str(place)]) == 0
    assert place.read_text("utf-8").splitlines()[1:] == ["rms,1.9", "layer,2.9", "dyt,2.4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sort", "bets"], "error: no column 'bets'. Did you mean 'best'?"),
        (["--columns", "norm,lr"], "error: no column 'lr'."),
        (["--where", "norm"], "error: 'norm' is no rule"),
        (["--every", "0"], "error: --every must be above 0 seconds, got 0"),
    ],
)
def test_a_wrong_option_is_one_line(
    study: Made, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert cli.main(["watch", str(study.place), *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith(said)
    assert text.count("\n") == 1


def test_watching_needs_no_torch(study: Made) -> None:
    code = (
        "import sys; from espalier.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    line = [sys.executable, "-c", code, "watch", str(study.place)]
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
