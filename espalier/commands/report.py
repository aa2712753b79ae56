"""`espalier report`: a run as one HTML file."""

from pathlib import Path

from espalier import console
from espalier.report import write


def report(run: Path, /, *, out: Path | None = None) -> dict[str, object]:
    """Write a run's report: one HTML file with loss curves, samples, configuration and hashes.

    For example:

        espalier report runs/demo

    Args:
        run: The run's directory.
        out: The file to write (RUN/report.html).
    """
    place = write(run, out)
    console.out(f"wrote {place}")
    return {"report": place}
