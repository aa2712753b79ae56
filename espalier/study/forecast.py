"""How long trials will take and what they need: counted, and at a measured speed."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espalier import device as machine
from espalier.study.book import Book, Keyed
from espalier.study.launch import Launcher
from espalier.study.size import Size


@dataclass(frozen=True)
class Forecast:
    """Of the trials that are not finished."""

    done: int
    flops: int
    seconds: float | None
    """None where nobody knows: a cluster before its first finished trial"""
    bound: str
    """what the time is: `at least`, or `about`"""
    source: str
    memory: int
    disk: int
    free: int
    """bytes on the disk"""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def of(
    book: Book, trials: Sequence[Keyed], sizes: Mapping[str, Size], launcher: Launcher
) -> Forecast:
    """At the speed of this study's own finished trials; without any, at best what the machine does.

    Workers on one CPU share its arithmetic; each GPU has its own.
    """
    outcomes = {trial.key: book.outcome(trial) for trial in trials}
    left = [trial for trial in trials if outcomes[trial.key] is None]
    flops = sum(sizes[trial.key].flops for trial in left)
    seconds: float | None = None
    spent = {key: float(one["seconds"]) for key, one in outcomes.items() if one and one["seconds"]}
    if spent:
        speed = sum(sizes[key].flops for key in spent) / sum(spent.values())
        seconds = flops / speed / min(launcher.most, max(1, len(left)))
        bound, source = "about", f"at the speed of {len(spent)} finished trials"
    elif launcher.room:
        seconds = flops / sum(_peak(place) for place in launcher.room)
        bound, source = "at least", "at the speed of the best matrix product"
    else:
        bound, source = "", "at a speed that the first finished trial will show"
    return Forecast(
        done=len(trials) - len(left),
        flops=flops,
        seconds=seconds,
        bound=bound,
        source=source,
        memory=max((sizes[trial.key].memory for trial in left), default=0),
        disk=sum(sizes[trial.key].disk for trial in left),
        free=_free(book.place),
    )


def _peak(device: str) -> float:
    found = machine.peak_flops(device, "bf16" if device.startswith("cuda") else "fp32")
    return found.flops if found else machine.matmul_flops(device, "fp32")


def _free(place: Path) -> int:
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free
