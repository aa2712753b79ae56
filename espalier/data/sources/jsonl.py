"""JSON lines, packed with gzip or not: a document per line."""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from espalier.data.pieces import Mark, Piece
from espalier.data.sources.records import Rule, document
from espalier.durable import digest
from espalier.errors import UserError

LONGEST = 1 << 28  # bytes of one line


@dataclass(frozen=True)
class JsonLines:
    """Files of JSON lines, one document each line; the cursor is a file, a byte and a line."""

    files: tuple[Path, ...]
    rule: Rule
    one: bool = False
    unit: str = "bytes"

    @cached_property
    def size(self) -> float:
        return float(sum(file.stat().st_size for file in self.files))

    @property
    def text_bytes(self) -> int:
        packed = sum(file.stat().st_size for file in self.files if file.suffix == ".gz")
        return int(self.size) + 4 * packed

    def identity(self) -> dict[str, Any]:
        hashes = "\n".join(digest(file) for file in self.files)
        return {
            "kind": "jsonl",
            "name": self.files[0].name if len(self.files) == 1 else f"{len(self.files)} files",
            "files": len(self.files),
            "bytes": int(self.size),
            "sha256": hashlib.sha256(hashes.encode("ascii")).hexdigest(),
        }

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        start = cursor or {"file": 0, "at": 0, "line": 0}
        before = float(sum(file.stat().st_size for file in self.files[: start["file"]]))
        for index in range(start["file"], len(self.files)):
            file = self.files[index]
            at, number = (start["at"], start["line"]) if index == start["file"] else (0, 0)
            with _opened(file) as (stream, raw):
                for line, end in _lines(stream, file, at):
                    number += 1
                    text = self._text(line, f"{file}, line {number}", tally)
                    if text is None:
                        continue
                    place = {"file": index, "at": end, "line": number}
                    yield from document(text, Mark(place, before + raw.tell(), dict(tally)))
            before += file.stat().st_size

    def _text(self, line: bytes, where: str, tally: Counter[str]) -> str | None:
        if not line.strip():
            return None
        try:
            record = json.loads(line.decode("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if self.rule.bad == "skip":
                tally["skipped"] += 1
                return None
            why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not JSON ({error})"
            raise UserError(f"{where}: {why} (--skip-bad leaves such lines out)") from None
        except RecursionError:
            raise UserError(f"{where}: nested too deeply to be a document") from None
        return self.rule.text(record, where, tally)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The lines' stream, and the file under it, whose position says how far reading is."""
    with file.open("rb") as raw:
        if file.suffix != ".gz":
            yield raw, raw
            return
        with gzip.open(raw) as unpacked:
            try:
                yield cast("BinaryIO", unpacked), raw
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(f"{file} is damaged or no gzip file: {error}") from None


def _lines(stream: BinaryIO, file: Path, at: int) -> Iterator[tuple[bytes, int]]:
    """Lines from byte `at` on, each with the byte behind it."""
    stream.seek(at)
    while line := stream.readline(LONGEST):
        if len(line) == LONGEST:
            raise UserError(
                f"{file}: the line at byte {at} is over {LONGEST >> 20} MiB, no document"
            )
        yield line.removeprefix(b"\xef\xbb\xbf") if at == 0 else line, at + len(line)
        at += len(line)
