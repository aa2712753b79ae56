"""One verb as a process: `espalier VERB … --json`, under a time limit, in the study."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

GRACE = 20.0  # seconds to save in, at most, after being asked to end
TAIL = 1500  # characters of what it said
SECRETS = ("OPENAI_API_KEY", "ESPALIER_API_KEY")


@dataclass(frozen=True)
class Outcome:
    """How it ended: the exit code, what --json printed (None: nothing), what was said."""

    code: int
    value: Any
    said: str
    seconds: float
    late: bool = False  # it was ended because its time was up

    @property
    def error(self) -> str | None:
        if self.late:
            return f"its time was up after {self.seconds:.0f} s"
        if self.code == 0:
            return None
        told = self.value.get("error") if isinstance(self.value, dict) else None
        ended = f"ended by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return str(told or self.said or ended)


class Runner(Protocol):
    """Whatever can run a verb."""

    def __call__(self, words: Sequence[str], folder: Path, seconds: float) -> Outcome: ...


class Processes:
    """The real runner: a process of its own for each verb, none of which outlives `end`."""

    def __init__(self) -> None:
        self.living: set[subprocess.Popen[bytes]] = set()

    def __call__(self, words: Sequence[str], folder: Path, seconds: float) -> Outcome:
        """Run a verb in `folder`. It is asked to end in time to save, and gone after `seconds`."""
        start = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "espalier", *words, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=said,
                cwd=folder,
                env=_surroundings(),
                start_new_session=True,
            )
            self.living.add(process)
            late = self._wait(process, seconds)
            return Outcome(
                process.returncode,
                _parsed(_read(out)),
                _read(said)[-TAIL:].strip(),
                time.monotonic() - start,
                late,
            )

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Until it has ended or was ended; whether its time was up."""
        grace = min(GRACE, seconds / 4)
        try:
            process.wait(timeout=seconds - grace)
        except subprocess.TimeoutExpired:
            return True
        finally:
            if process.poll() is None:
                _end(process, grace)
            self.living.discard(process)
        return False

    def end(self) -> None:
        """End what another thread still waits for."""
        for process in list(self.living):
            _end(process, GRACE / 4)


def _surroundings() -> dict[str, str]:
    """The environment without keys; the study is no place to import from."""
    kept = {key: value for key, value in os.environ.items() if key not in SECRETS}
    return kept | {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask it and its children to end; after `grace` seconds, kill them."""
    for number in ("SIGTERM", "SIGKILL"):
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, number))
            else:
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
            return


def _read(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read().decode("utf-8", errors="replace"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
