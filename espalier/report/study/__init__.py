"""A study as one self-contained HTML file, and its best configuration as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from espalier.durable import write_asked, write_whole

if TYPE_CHECKING:
    from espalier.report.study.reading import Found

RECIPE = "best.yaml"


class Written(NamedTuple):
    """What `write` left; no recipe where no run has a finite loss."""

    page: Path
    recipe: Path | None


def write(place: Path, to: Path | None = None) -> Written:
    """Write a study's report to `to` (STUDY/report.html), and STUDY/best.yaml."""
    from espalier.report.study.page import page
    from espalier.report.study.reading import read

    found = read(place)
    best = recipe(found)
    target = to or place / "report.html"
    write_asked(target, page(found, best))
    return Written(target, best)


def recipe(found: Found) -> Path | None:
    """Write STUDY/best.yaml: the best configuration with its first seed, as `train` takes it.

    A search has written its own, which knows its limits and which objective comes first.
    """
    best, place = found.best, found.place / RECIPE
    if found.searched and place.is_file():
        return place
    if best is None or not found.recipe(best).is_file():
        return None
    seeds = ", ".join(str(seed) for seed in best.seeds)
    lost = ", ".join(str(seed) for seed in best.lost)
    header = (
        f"# The lowest of {len(found.judged)} configurations: loss {best.loss}, seeds {seeds}.\n"
    )
    if lost:
        header += f"# Every configuration lost seeds; this one {lost}: it may be unstable.\n"
    header += (
        "# It was chosen on the text it was judged on: train it with other seeds to know it.\n"
    )
    write_whole(place, header + found.recipe(best).read_text(encoding="utf-8"))
    return place
