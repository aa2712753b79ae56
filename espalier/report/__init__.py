"""A run directory as one self-contained HTML file; reads texts and headers, never weights."""

from pathlib import Path

from espalier.durable import write_asked


def write(run: Path, to: Path | None = None) -> Path:
    """Write the report of a run to `to` (RUN/report.html) and return its place."""
    from espalier.report.page import page
    from espalier.report.reading import read

    story = read(run)
    place = to or story.path / "report.html"
    write_asked(place, page(story))
    return place
