"""`espalier report`: a run or a study as one HTML file."""

from pathlib import Path

from espalier import console
from espalier.errors import UserError
from espalier.report import write


def report(
    source: Path,
    /,
    *,
    out: Path | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
) -> dict[str, object]:
    """Write a report as one HTML file: of a run, or of a whole study.

    A run's has loss curves, samples, configuration and hashes. A study's has its table with
    intervals, importance, loss against cost, failures; its best configuration goes to
    STUDY/best.yaml, and its runs to STUDY/trials.csv.

    For example:

        espalier report runs/demo
        espalier report studies/norms --parquet norms.parquet

    Args:
        source: The run's directory, or a study's.
        out: The file to write (RUN/report.html, STUDY/report.html).
        csv: Where a study's runs go, a line for each (STUDY/trials.csv).
        parquet: The same as Parquet.
    """
    from espalier.study.book import is_study

    if is_study(source):
        return _study(source, out, csv, parquet)
    if csv is not None or parquet is not None:
        raise UserError(f"--csv and --parquet are for studies; {source} is none")
    place = write(source, out)
    console.out(f"wrote {place}")
    return {"report": place}


def _study(
    place: Path, out: Path | None, csv: Path | None, parquet: Path | None
) -> dict[str, object]:
    from espalier.commands import sweep
    from espalier.durable import write_asked
    from espalier.report import study
    from espalier.study import table

    found: dict[str, object] = dict(sweep.show(place, csv))
    if parquet is not None:
        write_asked(parquet, table.to_parquet(table.complete(place)))
        console.out(f"wrote {parquet}")
        found["parquet"] = parquet
    written = study.write(place, out)
    console.out(f"wrote {written.page}")
    if written.recipe is not None:
        console.out(f"wrote {written.recipe}: espalier train {written.recipe} --out runs/best")
    return found | {"report": written.page, "recipe": written.recipe}
