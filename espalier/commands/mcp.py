"""`espalier mcp`: the verbs as tools for other agents."""

from __future__ import annotations

from pathlib import Path

from espalier import console
from espalier.commands.research import NOTHING_ALLOWED, Allowed, open_study


def mcp(*, study: Path, allowed: Allowed = NOTHING_ALLOWED) -> dict[str, object]:
    """Serve the verbs as tools of the Model Context Protocol, over stdin and stdout.

    Everything is written inside the study, under the budget; each call stands in STUDY/log.jsonl.

    Example: espalier mcp --study studies/mine --read data/shakespeare --budget-time 2h

    Parameters
    ----------
    study
        The directory of runs; made when it is not there.
    """
    from espalier.agent import server

    with open_study(study, allowed.limits(None), allowed.read) as (tools, journal, version):
        if not journal.of("start"):
            journal.write("start", problem="", model="an MCP client", version=version)
        made = server.make(tools, version)
        console.say(f"serving {len(tools.schemas())} tools over {study}; ^C ends")
        server.serve(made)
        spent = tools.tick()
        return {"study": study, "runs": spent.runs, "tokens": spent.tokens}
