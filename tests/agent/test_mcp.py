"""`espalier mcp`, asked by the official SDK's own client."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from espalier.agent import server
from espalier.agent.journal import Journal
from espalier.agent.process import Outcome, Processes
from espalier.commands.research import Allowed, open_study
from tests.agent import within


def ask(target: Any, *calls: tuple[str, dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """The schemas that a server offers, and its answers to calls, one after another."""

    async def main() -> tuple[dict[str, Any], list[Any]]:
        async with Client(target) as client:
            listed = await client.list_tools()
            answers = [await client.call_tool(name, given) for name, given in calls]
        return {one.name: one.input_schema for one in listed.tools}, answers

    return anyio.run(main)


def test_it_offers_what_the_research_loop_has(tmp_path: Path) -> None:
    allowed = Allowed(device="cpu")
    with open_study(tmp_path / "study", allowed.limits(None), (), within.run) as (tools, _, _):
        schemas, answers = ask(
            server.make(tools, "0"),
            ("recipes", {}),
            ("train", {"recipe": "gpt2", "out": "../elsewhere"}),
            ("shell", {"command": "ls"}),
        )
    assert schemas == {name: schema for name, (_, schema) in tools.schemas().items()}
    assert [one.is_error for one in answers] == [False, True, True]
    assert "gpt2" in json.loads(answers[0].content[0].text)["recipes"]
    assert "outside the study" in answers[1].content[0].text
    assert [one["tool"] for one in Journal(tmp_path / "study" / "log.jsonl").of("refused")] == [
        "train",
        "shell",
    ]


def test_it_speaks_over_stdin_and_stdout(tmp_path: Path) -> None:
    words = ["-m", "espalier", "mcp", "--study", str(tmp_path / "study"), "--device", "cpu"]
    target = StdioServerParameters(command=sys.executable, args=words)
    schemas, answers = ask(target, ("parts", {"slot": "norm"}))
    assert "train" in schemas
    assert "rms" in answers[0].content[0].text


@pytest.mark.parametrize("given", [{"slot": "new", "more": ["norm", "x"]}, {"slot": "a/../b"}])
def test_it_begins_no_file_of_code(tmp_path: Path, given: dict[str, Any]) -> None:
    with open_study(tmp_path / "study", Allowed().limits(None), (), within.run) as (tools, _, _):
        _, answers = ask(server.make(tools, "0"), ("parts", given))
    assert answers[0].is_error
    assert {one.name for one in (tmp_path / "study").iterdir()} == {"log.jsonl"}


class Lasting(Processes):
    """Verbs that last until they are ended, and a moment longer."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.ended = threading.Event()

    def __call__(self, words: Sequence[str], folder: Path, seconds: float) -> Outcome:
        self.told.append(f"{words[0]} begins")
        self.ended.wait(5)
        time.sleep(0.3)
        self.told.append(f"{words[0]} is through")
        return Outcome(-15, None, "", 0.0)

    def end(self) -> None:
        self.ended.set()


def test_a_call_that_is_given_up_is_through_before_the_next_begins(tmp_path: Path) -> None:
    runner = Lasting()

    async def main(tools: Any) -> None:
        async with Client(server.make(tools, "0")) as client:
            with anyio.move_on_after(0.5):
                await client.call_tool("recipes", {})
            await client.call_tool("doctor", {})

    with open_study(tmp_path / "study", Allowed().limits(None), (), runner) as (tools, _, _):
        began = time.monotonic()
        anyio.run(main, tools)
    assert runner.told == [
        f"{verb} {what}" for verb in ("recipes", "doctor") for what in ("begins", "is through")
    ]
    assert time.monotonic() - began < 4  # it was ended, not waited for
