"""The research loop: ask the model, run what it calls, tell it what came of that, until the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from espalier.agent import brief
from espalier.agent.endpoint import Call, EndpointError, Model, Reply, Room, estimate
from espalier.agent.journal import Journal
from espalier.agent.toolbox import Answer, Toolbox

FAULTS = 5  # in a row, then the loop ends
REPLIES = 16  # of the model for each experiment, on average
CLOSING = 8  # replies after the last experiment
WINDOW = 240_000  # characters of a request; older answers are shortened beyond
REMNANT = 300  # characters that stay of one
LEAST = 256  # tokens that a reply needs


@dataclass(frozen=True)
class Ending:
    """Why the loop ended; `conclusion` is the model's, empty where it gave none."""

    reason: str
    conclusion: str = ""


class Research:
    """A study under way; made anew from its log it goes on where it stopped.

    `tell` hears a line for each reply, call and result.
    """

    def __init__(self, model: Model, tools: Toolbox, journal: Journal, tell: Callable[[str], None]):
        self.model, self.tools, self.journal, self.tell = model, tools, journal, tell
        self.messages: list[dict[str, Any]] = [one["message"] for one in journal.of("message")]
        self.faults = self.replies = 0
        self.closing: int | None = None  # replies since no experiment was left
        self.ending: Ending | None = None
        finish = ("The end: your conclusion.", brief.FINISH)
        self.schemas = [
            {
                "type": "function",
                "function": {"name": name, "description": told, "parameters": schema},
            }
            for name, (told, schema) in {**tools.schemas(), "finish": finish}.items()
        ]

    def begin(self, problem: str) -> None:
        """Say what it is about; in an interrupted study, answer what stood open."""
        spent = self.tools.tick().line(self.tools.limits.budget)
        if self.messages:
            self._answer_open()
            self._say("user", brief.resumed(spent))
            return
        named = sorted(set(self.tools.place.named))
        self._say("system", brief.system(named))
        self._say("user", brief.problem(problem, spent, self.tools.limits.experiments or 0))

    def go(self) -> Ending:
        """To the end, whatever ends it."""
        while self.ending is None:
            self.ending = self._spent() or self._round()
        self.journal.write(
            "end",
            reason=self.ending.reason,
            conclusion=self.ending.conclusion,
            spent=asdict(self.tools.tick()),
        )
        return self.ending

    def _spent(self) -> Ending | None:
        """The ending where nothing more may be asked; once, that no experiment is left."""
        gone = self.tools.over()
        hard = [name for name in gone if name in {"seconds", "model tokens"}]
        if hard or not self._affordable():
            return Ending(f"{' and '.join(hard) or 'model tokens'} used up")
        if self.replies >= REPLIES * (1 + (self.tools.limits.experiments or 1)):
            return Ending(f"{self.replies} replies without an end")
        if gone and self.closing is None:
            self.closing = 0
            self._say("user", brief.closing(gone))
        if self.closing is not None and self.closing >= CLOSING:
            return Ending(f"{', '.join(gone)} used up, no conclusion given")
        return None

    def _affordable(self) -> bool:
        left = self.tools.spent.left(self.tools.limits.budget)["model_tokens"]
        return left is None or left >= LEAST + estimate(self._window(), self.schemas)

    def _round(self) -> Ending | None:
        """One reply and what it calls; the ending, where it is one."""
        try:
            reply = self.model.reply(self._window(), self.schemas, self._room())
        except EndpointError as error:
            self.journal.write("endpoint", error=str(error), spent=asdict(self.tools.tick()))
            self.tell(str(error))
            return Ending(f"endpoint: {error}") if error.final else self._fault(str(error))
        self.replies += 1
        if self.closing is not None:
            self.closing += 1
        self.tools.spent.model_tokens += reply.tokens
        self._say_reply(reply)
        if not reply.calls:
            self._say("user", brief.NO_CALL if reply.text.strip() else brief.NOTHING)
            return self._fault("no tool called")
        return self._calls(reply)

    def _calls(self, reply: Reply) -> Ending | None:
        ending = None
        for call in reply.calls:
            answer, conclusion = self._call(call)
            self.messages.append(self._log_answer(call, answer))
            error = answer.value.get("error") if isinstance(answer.value, dict) else None
            self.tell(f"  {call.name}: {error or 'done'}")
            if answer.refused:
                ending = ending or self._fault(str(error))
            else:
                self.faults = 0
            if conclusion:
                return Ending("finished", conclusion)
        return ending

    def _call(self, call: Call) -> tuple[Answer, str]:
        """The answer to a call; and the conclusion, where that is what it gave."""
        try:
            given = json.loads(call.arguments or "{}")
        except ValueError as error:
            return self._wrong(call, f"the arguments of {call.name} are not JSON: {error}"), ""
        if not isinstance(given, dict):
            return self._wrong(call, f"the arguments of {call.name} are not a JSON object"), ""
        if call.name != "finish":
            return self.tools.call(call.name, given), ""
        conclusion = given.get("conclusion")
        if not isinstance(conclusion, str) or not conclusion.strip():
            return self._wrong(call, "finish needs conclusion, a text"), ""
        return Answer({"finished": True}), conclusion

    def _wrong(self, call: Call, error: str) -> Answer:
        self.journal.write("refused", tool=call.name, given=call.arguments, error=error)
        return Answer({"error": error}, refused=True)

    def _fault(self, error: str) -> Ending | None:
        self.faults += 1
        if self.faults < FAULTS:
            return None
        return Ending(f"{self.faults} faults in a row, the last: {error}")

    def _room(self) -> Room:
        """What a reply may take of what is left."""
        left = self.tools.tick().left(self.tools.limits.budget)
        tokens, seconds = left["model_tokens"], left["seconds"]
        if tokens is not None:
            tokens -= estimate(self._window(), self.schemas)
        return Room(None if tokens is None else int(tokens), seconds)

    # messages, each logged as it is made

    def _say(self, role: str, text: str) -> None:
        message = {"role": role, "content": text}
        self.journal.write("message", message=message)
        self.messages.append(message)

    def _say_reply(self, reply: Reply) -> None:
        message = reply.message()
        self.journal.write("message", message=message, spent=asdict(self.tools.tick()))
        self.messages.append(message)
        for line in reply.text.strip().splitlines():
            self.tell(line)

    def _log_answer(self, call: Call, answer: Answer) -> dict[str, Any]:
        spent = self.tools.tick().line(self.tools.limits.budget)
        text = f"{answer.text()}\nSpent: {spent}."
        message = {"role": "tool", "tool_call_id": call.id, "content": text}
        self.journal.write("message", message=message)
        return message

    def _answer_open(self) -> None:
        """Every call needs an answer before the next request, also one that was cut off."""
        answered = {one.get("tool_call_id") for one in self.messages}
        for one in [call for said in self.messages for call in said.get("tool_calls", [])]:
            if one["id"] not in answered:
                call = Call(one["id"], one["function"]["name"], one["function"]["arguments"])
                answer = Answer({"error": "interrupted; see `results` for what there is of it"})
                self.messages.append(self._log_answer(call, answer))

    def _window(self) -> list[dict[str, Any]]:
        """The messages, the oldest tool answers shortened until all fit."""
        excess = sum(len(str(one)) for one in self.messages) - WINDOW
        found = []
        for one in self.messages:
            text = str(one.get("content") or "")
            if excess > 0 and one["role"] == "tool" and len(text) > REMNANT:
                excess -= len(text) - REMNANT
                found.append({**one, "content": f"{text[:REMNANT]} … (old; ask again)"})
            else:
                found.append(one)
        return found
