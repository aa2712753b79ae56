"""Fox: pages of dense text with their transcription (arXiv:2405.14295, 112 English ones)."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from espalier.data.samples import Fault, Sample, picture
from espalier.data.sources.pictured import PageConfig, answered, table
from espalier.durable import read_json
from espalier.errors import UserError


class FoxConfig(PageConfig):
    """The folder focus_benchmark_test: LANGUAGE_page_ocr.json and LANGUAGE_pdf_png.

    Or a table whose rows have `image` itself and `conversations`.
    """

    place: ClassVar[str] = "the unzipped folder focus_benchmark_test, or a table"

    language: Literal["en", "cn"] = "en"
    prompt: str = "OCR this document."

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        if place is None:
            raise UserError(
                "fox: fetch ucaslcl/Fox_benchmark_data from the hub, unzip it, and give --from DIR"
            )
        folder, file = place / f"{self.language}_pdf_png", place / f"{self.language}_page_ocr.json"
        rows = read_json(file) if file.is_file() else table(place, "")
        for number, row in enumerate(rows, 1):
            name = row["image"] if isinstance(row.get("image"), str) else f"fox-{number:04d}"
            try:
                said = [one["value"] for one in row["conversations"] if one["from"] == "gpt"]
                turns = answered(self.prompt, [picture(row.get("image"), folder)], said[0])
                yield Sample(name, turns)
            except (KeyError, TypeError, IndexError):
                yield Fault(name, "it has no conversations with an answer of gpt's")
            except UserError as error:
                yield Fault(name, str(error))
