"""STUDY/log.jsonl: every step, on the disk before the next one begins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from espalier.durable import finite
from espalier.errors import UserError


class Journal:
    """An append-only log of records, each with its number, time and kind.

    A last line that a crash tore is cut off when the log is opened again.
    """

    def __init__(self, file: Path):
        self.file = file
        self.records = _whole(file)

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append a record and bring it to the disk."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"n": len(self.records) + 1, "time": now, "kind": kind, **fields}
        line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False, default=str)
        with self.file.open("ab") as stream:
            stream.write(line.encode("utf-8", errors="backslashreplace") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.records.append(record)
        return record

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == kind]

    def last(self, key: str) -> Mapping[str, Any] | None:
        """What the newest record with `key` says there."""
        return next((one[key] for one in reversed(self.records) if key in one), None)

    def open_calls(self) -> list[dict[str, Any]]:
        """Calls without a result: the process ended under them."""
        done = {record["call"] for record in self.of("result")}
        return [record for record in self.of("call") if record["n"] not in done]


def _whole(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")
    if lines[-1]:
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size - len(lines[-1]))
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(f"{file}:{number}: not a record of a study's log") from None
    return found
