"""The same tools for any other agent: a Model Context Protocol server, by the official SDK."""

from __future__ import annotations

from typing import Any

from espalier.agent.toolbox import Toolbox
from espalier.errors import need

NAME = "espalier"
ABOUT = (
    "Train, prune, evaluate and compare small GPT-style language models. Everything is written "
    "inside one study; runs are named relative to it."
)


def make(tools: Toolbox, version: str) -> Any:
    """An `mcp` server over a toolbox; its calls run one at a time, beside the protocol's loop."""
    need("mcp", "agent")
    import anyio
    import anyio.to_thread
    from mcp import types
    from mcp.server.lowlevel import Server

    turn = anyio.Lock()

    async def listed(context: Any, asked: Any) -> Any:
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=told, input_schema=schema)
                for name, (told, schema) in tools.schemas().items()
            ]
        )

    async def called(context: Any, asked: Any) -> Any:
        async with turn:
            answer = await anyio.to_thread.run_sync(
                tools.call, asked.name, asked.arguments or {}, abandon_on_cancel=True
            )
        failed = isinstance(answer.value, dict) and "error" in answer.value
        text = types.TextContent(type="text", text=answer.text())
        return types.CallToolResult(content=[text], is_error=failed)

    return Server(
        NAME, version=version, instructions=ABOUT, on_list_tools=listed, on_call_tool=called
    )


def serve(server: Any) -> None:
    """Speak over stdin and stdout until the client leaves."""
    import anyio
    from mcp.server.stdio import stdio_server

    async def main() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(main)
