"""The same tools for any other agent: a Model Context Protocol server, by the official SDK."""

from __future__ import annotations

from typing import Any

from espalier.agent.toolbox import Toolbox
from espalier.errors import need

NAME = "espalier"
AGAIN = 0.2  # seconds until a call that was given up is ended again
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

    async def ended(done: anyio.Event) -> None:
        """Once the client gives a call up: end its process, also one that is only just begun."""
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                while not done.is_set():
                    await anyio.to_thread.run_sync(tools.interrupt)
                    with anyio.move_on_after(AGAIN):
                        await done.wait()
            raise

    async def called(context: Any, asked: Any) -> Any:
        # the next call has its turn when this one's thread is through, given up or not
        async with turn, anyio.create_task_group() as tasks:
            done = anyio.Event()
            tasks.start_soon(ended, done)
            with anyio.CancelScope(shield=True):
                try:
                    answer = await anyio.to_thread.run_sync(
                        tools.call, asked.name, asked.arguments or {}
                    )
                finally:
                    done.set()
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
