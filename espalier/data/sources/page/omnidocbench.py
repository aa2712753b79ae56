"""OmniDocBench: pages of nine kinds with blocks in reading order (arXiv:2412.07626)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from espalier.data.samples import Fault, Sample, picture
from espalier.data.sources.pictured import PageConfig, answered, table
from espalier.durable import read_json
from espalier.errors import UserError

TEXTS = ("text_block", "title", "header", "footer")


class OmnidocbenchConfig(PageConfig):
    """Text is what blocks, titles, headers and footers say, in reading order, a blank line between.

    The folder of opendatalab/OmniDocBench: OmniDocBench.json and images; or a table of the same
    rows, each with its `image`. Blocks without an order come last, ignored ones not at all.
    """

    place: ClassVar[str] = "the folder with OmniDocBench.json, or a table"

    prompt: str = "OCR this document."

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        if place is None:
            raise UserError(
                "omnidocbench: fetch opendatalab/OmniDocBench from the hub and give --from DIR"
            )
        file = place / "OmniDocBench.json"
        for number, row in enumerate(read_json(file) if file.is_file() else table(place, ""), 1):
            page = row.get("page_info") or {}
            name = str(page.get("image_path") or f"page {number}")
            blocks = _blocks(row.get("layout_dets") or [])
            text = "\n\n".join(str(block["text"]) for block in blocks)
            boxes = [[block["text"], *_box(block)] for block in blocks if block.get("poly")]
            facts = {"page": page.get("page_attribute"), "boxes": boxes}
            try:
                shown = picture(row.get("image") or page.get("image_path"), place / "images")
                yield Sample(name, answered(self.prompt, [shown], text), facts=facts)
            except UserError as error:
                yield Fault(name, str(error))


def _blocks(found: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    kept = [b for b in found if b.get("category_type") in TEXTS and b.get("text")]
    kept = [block for block in kept if not block.get("ignore")]
    return sorted(kept, key=lambda block: (block.get("order") is None, block.get("order") or 0))


def _box(block: Mapping[str, Any]) -> list[float]:
    """Left, top, right, bottom, of four corners."""
    xs, ys = block["poly"][::2], block["poly"][1::2]
    return [min(xs), min(ys), max(xs), max(ys)]
