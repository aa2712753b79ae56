"""The tools a model calls: verbs under rules and a budget, each call logged before and after."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from espalier.agent import experiment, facts
from espalier.agent.budget import Budget, Spent
from espalier.agent.journal import Journal
from espalier.agent.offer import Tool
from espalier.agent.process import Outcome, Processes, Runner
from espalier.agent.rules import Place
from espalier.agent.signature import known
from espalier.errors import UserError

MOST = 16_000  # characters of an answer
SHOWN = 150  # numbers of a run at once

RESULTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "run": {"type": "string", "description": "A run; left out, a line for each of them."},
        "match": {"type": "string", "description": "Only numbers whose name holds this."},
    },
    "required": [],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Answer:
    """What a model reads; `refused`: nothing was run, the call itself was wrong."""

    value: Any
    refused: bool = False

    def text(self) -> str:
        """As JSON, cut where it is too long."""
        full = json.dumps(self.value, ensure_ascii=False, default=str)
        if len(full) <= MOST:
            return full
        return f"{full[:MOST]} … ({len(full) - MOST} characters more; ask for less)"


@dataclass(frozen=True)
class Limits:
    """What bounds a study."""

    budget: Budget
    experiments: int | None = None
    device: str = "auto"


class Toolbox:
    """Every tool over one study. Calls come one at a time."""

    def __init__(
        self,
        place: Place,
        tools: Mapping[str, Tool],
        limits: Limits,
        journal: Journal,
        runner: Runner,
    ):
        self.place, self.tools, self.limits = place, tools, limits
        self.journal, self.runner = journal, runner
        before = journal.last("spent")
        self.spent = Spent() if before is None else Spent.of(before)
        self.began = time.monotonic() - self.spent.seconds
        for call in journal.open_calls():
            self._settle(call, None)

    def schemas(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """What each tool does, and the schema of its arguments."""
        verbs = {name: (tool.summary, tool.schema) for name, tool in self.tools.items()}
        return {**verbs, "results": ("The numbers and hashes of runs, from their files.", RESULTS)}

    def tick(self) -> Spent:
        """What is spent by now."""
        self.spent.seconds = time.monotonic() - self.began
        return self.spent

    def over(self) -> list[str]:
        """The bounds that leave no room for another experiment."""
        empty = self.tick().empty(self.limits.budget)
        most = self.limits.experiments
        return empty + ["experiments"] * (most is not None and self.spent.experiments >= most)

    def call(self, name: str, given: Mapping[str, Any]) -> Answer:
        """Run a tool; whatever is wrong is in the answer."""
        try:
            if name == "results":
                return self._results(given)
            tool = self.tools[known(name, list(self.schemas()), "tool")]
            values = tool.values(given, self.place)
            if "seconds" in self.tick().empty(self.limits.budget):
                raise UserError("the time is used up")
            if name == "train":
                return self._train(tool, values, given)
            words = tool.words(values, self.limits.device)
            self._afford(experiment.pruning_tokens(self.place.study, name, values))
            return self._run(tool, words, given)
        except UserError as error:
            self.journal.write("refused", tool=name, given=given, error=str(error))
            return Answer({"error": str(error)}, refused=True)

    def interrupt(self) -> None:
        """End the process that a call waits for in another thread, if there is one by now."""
        if isinstance(self.runner, Processes):
            self.runner.end()

    def _run(self, tool: Tool, words: list[str], given: Mapping[str, Any], **note: Any) -> Answer:
        call = self.journal.write("call", tool=tool.name, given=given, words=words, **note)
        outcome = self.runner(words, self.place.study, self._seconds(tool))
        return self._settle(call, outcome)

    def _seconds(self, tool: Tool) -> float:
        left = self.tick().left(self.limits.budget)["seconds"]
        return min(tool.offer.seconds, 86400.0 * 365 if left is None else left)

    def _train(self, tool: Tool, values: dict[str, list[Any]], given: Mapping[str, Any]) -> Answer:
        """One experiment: checked, afforded, run, read."""
        if gone := self.over():
            raise UserError(f"no experiment is left: {', '.join(gone)} used up")
        wish = experiment.wish(self.place.study, values)
        words = tool.words(wish.values, self.limits.device)
        self.spent.experiments += 1
        checked = self.runner(wish.check, self.place.study, self._seconds(self.tools["check"]))
        if checked.error is not None:
            error = f"check: {checked.error}"
            call = self.journal.write("call", tool="train", given=given, words=wish.check)
            self._log(call, error, None, checked.seconds)
            return Answer({"error": error})
        plan = wish.plan(checked.value)
        self._afford(plan.tokens)
        note = {"run": wish.run, "before": wish.before, "planned": plan.tokens, "step": plan.step}
        return self._run(tool, words, given, checked=plan.shown, **note)

    def _afford(self, tokens: int) -> None:
        left = self.spent.left(self.limits.budget)["tokens"]
        if left is not None and tokens > left:
            raise UserError(
                f"this trains on {tokens:,} tokens, {int(left):,} are left: "
                "lower train.max_iters, data.batch_size or train.gradient_accumulation_steps"
            )

    def _settle(self, call: Mapping[str, Any], outcome: Outcome | None) -> Answer:
        """Charge what a call cost and log its end; no outcome: the loop ended under it."""
        error = "interrupted" if outcome is None else outcome.error
        value: Any = None if outcome is None else outcome.value
        if call["tool"] == "train" and "planned" in call:
            value = self._trained(call)
        elif call["tool"] == "prune":
            study = self.place.study
            values = self.tools["prune"].values(call["given"], self.place)
            self.spent.tokens += experiment.pruning_tokens(study, "prune", values)
        if error is not None:
            value = {"error": error, **(value if isinstance(value, dict) else {})}
        self._log(call, error, value, 0.0 if outcome is None else outcome.seconds)
        return Answer(value)

    def _trained(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Charge a run, to the last token where it came to its end; what it gave."""
        study, name = self.place.study, call["run"]
        if not (study / name / "config.yaml").is_file():
            return {"run": name}
        gone = facts.trained(study, name) - call["before"]["tokens"]
        if not facts.finished(study, name):  # updates since its last word are not in its files
            gone = min(call["planned"], gone + call["step"] * facts.log_interval(study, name))
        self.spent.tokens += max(0, gone)
        self.spent.runs += not call["before"]["there"]
        return facts.read(study, name).table()

    def _log(
        self, call: Mapping[str, Any], error: str | None, value: Any, seconds: float = 0.0
    ) -> None:
        self.journal.write(
            "result",
            call=call["n"],
            tool=call["tool"],
            error=error,
            value=value,
            seconds=round(seconds, 3),
            spent=asdict(self.tick()),
        )

    def _results(self, given: Mapping[str, Any]) -> Answer:
        for key in given:
            known(key, list(RESULTS["properties"]), "argument of results")
        study, names = self.place.study, facts.runs(self.place.study)
        if given.get("run") is None:
            return Answer({"runs": [facts.read(study, one).table() for one in names]})
        found = facts.read(study, known(str(given["run"]), names, "run"))
        match = str(given.get("match") or "")
        numbers = {key: value for key, value in found.numbers.items() if match in key}
        shown = dict(list(numbers.items())[:SHOWN])
        return Answer({**found.table(), "numbers": shown, "more": len(numbers) - len(shown)})
