"""A run directory as one self-contained HTML file; reads texts and headers, never weights."""

from pathlib import Path


def write(run: Path, to: Path | None = None) -> Path:
    """Write the report of a run to `to` (RUN/report.html) and return its place."""
    from espalier.report.page import page
    from espalier.report.reading import read

    story = read(run)
    place = to or story.path / "report.html"
    place.write_text(page(story), encoding="utf-8")
    return place
