"""A scripted language model: a local HTTP server that speaks the chat-completions format."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = 100  # what every reply claims to have taken
Step = Any  # what a turn answers: see `answer`
Script = Callable[[int, list[dict[str, Any]]], Step]


@dataclass
class StandIn:
    """`asked` holds every request's body, `keys` every Authorization header."""

    script: Script
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A turn that calls one tool."""
    return {"calls": [(name, json.dumps(arguments))], "text": f"I call {name}."}


def train(out: str, *overrides: str, recipe: str = "shakespeare-char-cpu") -> dict[str, Any]:
    return call("train", recipe=recipe, out=out, overrides=list(overrides))


def listed(steps: Sequence[Step]) -> Script:
    """One step after another; the last for ever."""
    return lambda turn, messages: steps[min(turn, len(steps) - 1)]


@contextmanager
def serving(script: Script) -> Iterator[StandIn]:
    """A stand-in at a free local port, for the length of the block."""
    stand_in = StandIn(script)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(200, {"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            turn = len(stand_in.asked)
            stand_in.asked.append(body)
            stand_in.keys.append(self.headers["Authorization"])
            step = stand_in.script(turn, body["messages"])
            self.send(*(step if isinstance(step, tuple) else (200, answer(turn, step))))

        def send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()


def answer(turn: int, step: Step) -> dict[str, Any]:
    """A chat completion of a step: a text, or {"text": …, "calls": [(name, arguments), …]}."""
    step = {"text": step, "calls": []} if isinstance(step, str) else step
    message: dict[str, Any] = {"role": "assistant", "content": step["text"]}
    if step["calls"]:
        message["tool_calls"] = [
            {
                "id": f"t{turn}-{i}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for i, (name, arguments) in enumerate(step["calls"])
        ]
    usage = {"prompt_tokens": TOKENS - 10, "completion_tokens": 10, "total_tokens": TOKENS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": f"c{turn}",
        "object": "chat.completion",
        "created": 0,
        "model": "stand-in",
        "choices": [choice],
        "usage": usage,
    }
