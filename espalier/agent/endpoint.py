"""Any language model behind an OpenAI-compatible chat endpoint, through OpenAI's own client.

The client retries what may pass (429, 5xx, a lost connection) with growing pauses, and heeds
Retry-After. The key comes from the environment and is nowhere written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from espalier.errors import MachineError, UserError, need

KEYS = ("ESPALIER_API_KEY", "OPENAI_API_KEY")
RETRIES = 5
PATIENCE = 300.0  # seconds for one reply
CHARACTERS = 3  # to a token, where the endpoint does not count; few, to be on the safe side


class EndpointError(MachineError):
    """No reply came; `final` where none ever will (a wrong key, an unknown model)."""

    def __init__(self, text: str, *, final: bool = False):
        super().__init__(text)
        self.final = final


@dataclass(frozen=True)
class Call:
    """A tool that the model wants; its arguments are JSON, or should be."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """What the model said, and how many tokens the question and the answer took."""

    text: str
    calls: tuple[Call, ...] = ()
    tokens: int = 0

    def message(self) -> dict[str, Any]:
        """As the next request repeats it."""
        found: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            found["tool_calls"] = [
                {
                    "id": one.id,
                    "type": "function",
                    "function": {"name": one.name, "arguments": one.arguments},
                }
                for one in self.calls
            ]
        return found


@dataclass(frozen=True)
class Room:
    """What a reply may take; None: as much as it needs."""

    tokens: int | None = None
    seconds: float | None = None


class Model(Protocol):
    """Whatever answers a conversation."""

    @property
    def name(self) -> str: ...

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        room: Room,
    ) -> Reply:
        """Go on with the conversation. EndpointError without a reply."""


@dataclass
class Endpoint:
    """A model of an endpoint; left out, the model is the only one that it serves."""

    name: str
    client: Any = field(repr=False)
    key: str = field(repr=False)

    @classmethod
    def open(cls, model: str | None, base_url: str | None) -> Endpoint:
        """UserError without a key where one is needed, or where no model is named."""
        openai = need("openai", "agent")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
        if not key and base_url is None:
            raise UserError(
                f"set {KEYS[1]} to a key, or --base-url to an endpoint that needs none "
                "(such as http://localhost:8000/v1)"
            )
        client = openai.OpenAI(
            api_key=key or "none", base_url=base_url, timeout=PATIENCE, max_retries=RETRIES
        )
        endpoint = cls(model or "", client, key)
        if not model:
            endpoint.name = endpoint._only()
        return endpoint

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        room: Room,
    ) -> Reply:
        bound: dict[str, Any] = {}
        if room.tokens is not None:
            bound["max_completion_tokens"] = room.tokens
        if room.seconds is not None:  # for all tries together
            bound["timeout"] = min(PATIENCE, room.seconds / (1 + RETRIES))
        told = self._ask(
            self.client.chat.completions.create,
            model=self.name,
            messages=list(messages),
            tools=list(tools),
            **bound,
        )
        if not getattr(told, "choices", None):
            raise EndpointError("the endpoint answered without a choice")
        message = told.choices[0].message
        calls = tuple(
            Call(
                one.id or f"call-{len(messages)}-{i}",
                one.function.name,
                one.function.arguments or "",
            )
            for i, one in enumerate(message.tool_calls or [])
            if getattr(one, "function", None) is not None
        )
        counted = getattr(told.usage, "total_tokens", None)
        text = message.content or ""
        return Reply(text, calls, counted or estimate(messages, tools, text))

    def _only(self) -> str:
        served = [one.id for one in self._ask(self.client.models.list)]
        if len(served) != 1:
            raise UserError(f"say --model; the endpoint serves {', '.join(served[:8]) or 'none'}")
        return str(served[0])

    def _ask(self, method: Any, **words: Any) -> Any:
        import openai

        try:
            return method(**words)
        except openai.APIStatusError as error:
            final = error.status_code in {401, 403, 404}
            text = f"the endpoint answered {error.status_code}: {self._clean(error)}"
            raise EndpointError(text, final=final) from None
        except openai.OpenAIError as error:
            raise EndpointError(f"no answer from the endpoint: {self._clean(error)}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise EndpointError(f"not a chat completion: {self._clean(error)}") from None

    def _clean(self, error: Exception) -> str:
        text = " ".join(str(error).split())[:300]
        return text.replace(self.key, "(key)") if self.key else text


def estimate(messages: Sequence[Any], tools: Sequence[Any], text: str = "") -> int:
    """Tokens of a request and its answer, rather too many than too few."""
    return 1 + (len(str(list(messages))) + len(str(list(tools))) + len(text)) // CHARACTERS
