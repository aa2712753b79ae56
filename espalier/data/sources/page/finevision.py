"""FineVision: 185 data sets of questions about images in one form (HuggingFaceM4/FineVision)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from espalier.data.samples import Fault, Sample, Turn, picture
from espalier.data.sources.pictured import PageConfig, asked, table
from espalier.errors import UserError


class FinevisionConfig(PageConfig):
    """One subset, as in `finevision:chartqa`: images, and turns (user, assistant) about them."""

    place: ClassVar[str] = "a copy of its table, .parquet or .json"

    subset: str = "chartqa"
    prompt: str | None = None
    """Asked in place of the first question."""
    start: int = Field(default=0, ge=0)
    """Rows that are passed over."""
    turns: Literal["all", "first"] = "all"
    """first: nano-deepseek-ocr's, one question and the first image only."""

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        rows = table(place, "HuggingFaceM4/FineVision", self.subset)
        for number, row in enumerate(rows):
            if number < self.start:
                continue
            name = f"{self.subset}-{number:06d}"
            try:
                yield Sample(name, self._turns(row), facts={"source": str(row.get("source"))})
            except (KeyError, TypeError):
                yield Fault(name, "its texts are no turns of user and assistant")
            except UserError as error:
                yield Fault(name, str(error))

    def _turns(self, row: Mapping[str, Any]) -> tuple[Turn, ...]:
        pictures = [picture(one, Path()) for one in row.get("images") or ()]
        texts = row.get("texts") or ()
        if self.turns == "first":
            pictures, texts = pictures[:1], texts[:1]
        found: list[Turn] = []
        for number, one in enumerate(texts):
            question = self.prompt if self.prompt and not number else one["user"]
            turn = Turn("user", (question,)) if number else asked(question, pictures)
            found += [turn, Turn("assistant", (one["assistant"],))]
        return tuple(found)
