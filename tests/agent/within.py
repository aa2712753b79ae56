"""A runner that calls verbs in this process: what costs seconds as a process costs none here."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

from espalier import cli
from espalier.agent.process import Outcome


def run(words: Sequence[str], folder: Path, seconds: float) -> Outcome:
    """As `espalier.agent.process.Processes`, without a process of its own or a time limit."""
    start, out, said = time.monotonic(), io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
    ):
        code = cli.main([*words, "--json"])
    value = json.loads(out.getvalue()) if out.getvalue().strip() else None
    return Outcome(code, value, said.getvalue()[-1500:].strip(), time.monotonic() - start)
