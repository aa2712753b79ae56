"""olmOCR-mix: pages of crawled PDFs with their text (arXiv:2502.18443, allenai/olmOCR-mix-1025)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from espalier.data.samples import Fault, Picture, Sample, picture
from espalier.data.sources.pictured import PageConfig, answered, table
from espalier.errors import UserError

PROMPTS = {"table": "Convert this table to HTML.", "diagram": "Describe this diagram."}
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class OlmocrConfig(PageConfig):
    """Upright pages in one language; a table or a diagram has a prompt of its own.

    The published rows name PDFs. What is read here is an image: the row's column `image`, or the
    page rendered to pages/ID.png (.jpg, .webp) beside the table, ID being the row's `id`.
    """

    place: ClassVar[str] = "its table, .parquet or .json, beside a folder of rendered pages"

    subset: str = "00_documents"
    language: str = "en"
    prompt: str = "OCR this document."

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        folder = Path() if place is None else place if place.is_dir() else place.parent
        for number, row in enumerate(table(place, "allenai/olmOCR-mix-1025", self.subset)):
            if row.get("primary_language") != self.language or not row.get(
                "is_rotation_valid", True
            ):
                continue
            name = str(row.get("id") or f"olmocr-{number:06d}")
            kind = next((k for k in PROMPTS if row.get(f"is_{k}")), "document")
            prompt = PROMPTS.get(kind, self.prompt)
            facts = {"kind": kind, "url": str(row.get("url")), "page": row.get("page_number")}
            try:
                text = str(row.get("natural_text") or "").strip()
                turns = answered(prompt, [_page(row, name, folder)], text)
                yield Sample(name, turns, facts=facts)
            except UserError as error:
                yield Fault(name, str(error))


def _page(row: Mapping[str, Any], name: str, folder: Path) -> Picture:
    if row.get("image"):
        return picture(row["image"], folder)
    for ending in ENDINGS:
        if (file := folder / "pages" / f"{Path(name).name}{ending}").is_file():
            return Picture(file, f"pages/{file.name}")
    raise UserError(f"its page is a PDF: render it to {folder / 'pages' / Path(name).name}.png")
