"""SmolTalk: conversations without images, to keep a model talking (HuggingFaceTB/smol-smoltalk)."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from espalier.data.samples import Fault, Sample, turns
from espalier.data.sources.pictured import PageConfig, table
from espalier.errors import UserError


class SmoltalkConfig(PageConfig):
    """The messages of its training split, as they are."""

    place: ClassVar[str] = "a copy of its table, .parquet or .json"

    start: int = Field(default=0, ge=0)
    """Conversations that are passed over."""

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        for number, row in enumerate(table(place, "HuggingFaceTB/smol-smoltalk")):
            if number < self.start:
                continue
            name = f"smoltalk-{number:06d}"
            try:
                yield Sample(name, turns(row, Path()), facts={"source": str(row.get("source"))})
            except UserError as error:
                yield Fault(name, str(error))
