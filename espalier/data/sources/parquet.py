"""Parquet files: a document per row."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from espalier.data.pieces import Mark, Piece
from espalier.data.sources.records import Rule, document
from espalier.durable import digest
from espalier.errors import UserError, need

ROWS = 512  # read at a time


@dataclass(frozen=True)
class Parquet:
    """Parquet files, one document each row; the cursor is a file, a row group and a row in it."""

    files: tuple[Path, ...]
    rule: Rule
    one: bool = False
    unit: str = "rows"

    @cached_property
    def size(self) -> float:
        return float(sum(self._open(file).metadata.num_rows for file in self.files))

    @property
    def text_bytes(self) -> int:
        return 4 * sum(file.stat().st_size for file in self.files)

    def identity(self) -> dict[str, Any]:
        hashes = "\n".join(digest(file) for file in self.files)
        return {
            "kind": "parquet",
            "name": self.files[0].name if len(self.files) == 1 else f"{len(self.files)} files",
            "files": len(self.files),
            "rows": int(self.size),
            "sha256": hashlib.sha256(hashes.encode("ascii")).hexdigest(),
        }

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        start = cursor or {"file": 0, "group": 0, "row": 0, "done": 0}
        done = int(start["done"])
        for place, text in self._texts(start, tally):
            done += 1
            if text is not None:
                yield from document(text, Mark(place | {"done": done}, done, dict(tally)))

    def _texts(
        self, start: dict[str, Any], tally: Counter[str]
    ) -> Iterator[tuple[dict[str, Any], str | None]]:
        for index in range(start["file"], len(self.files)):
            file = self.files[index]
            table = self._open(file)
            first = start["group"] if index == start["file"] else 0
            for group in range(first, table.num_row_groups):
                resumed = (index, group) == (start["file"], start["group"])
                skip = start["row"] if resumed else 0
                rows = _rows(table, group, self.rule.text_key)
                for row, value in enumerate(rows, start=1):
                    if row <= skip:
                        continue
                    where = f"{file}, row group {group}, row {row}"
                    text = self.rule.text({self.rule.text_key: value}, where, tally)
                    yield {"file": index, "group": group, "row": row}, text

    def _open(self, file: Path) -> Any:
        reader = need("pyarrow.parquet", "data")
        try:
            table = reader.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} is not a parquet file: {error}") from None
        names = table.schema_arrow.names
        if self.rule.text_key not in names:
            raise UserError(
                f"{file}: no column '{self.rule.text_key}'. Columns there: {', '.join(names)}. "
                "Use --text-key NAME."
            )
        return table


def _rows(table: Any, group: int, column: str) -> Iterator[Any]:
    for batch in table.iter_batches(batch_size=ROWS, row_groups=[group], columns=[column]):
        yield from batch.column(0).to_pylist()
