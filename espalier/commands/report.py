"""`espalier report`: a run as one HTML file, a study as a table."""

from pathlib import Path

from espalier import console
from espalier.report import write


def report(run: Path, /, *, out: Path | None = None) -> dict[str, object]:
    """Write a run's report: one HTML file with loss curves, samples, configuration and hashes.

    Of a study it shows the table, and writes STUDY/trials.csv.

    For example:

        espalier report runs/demo

    Args:
        run: The run's directory, or a study's.
        out: The file to write (RUN/report.html).
    """
    if (run / "study.jsonl").is_file():
        from espalier.commands import sweep

        return sweep.show(run, out)
    place = write(run, out)
    console.out(f"wrote {place}")
    return {"report": place}
