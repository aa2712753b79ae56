"""`espalier sweep FILE`: many runs of one file, on the workers of this machine."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from espalier import console
from espalier.errors import MachineError
from espalier.starting import uncollected
from espalier.units import count, duration, size

if TYPE_CHECKING:
    from espalier.study.book import Book
    from espalier.study.forecast import Forecast
    from espalier.study.launch import Launcher
    from espalier.study.launch.choose import Where
    from espalier.study.plan import Trial
    from espalier.study.pool import Event, Pool, SetAside
    from espalier.study.size import Size
    from espalier.study.table import Point

SHOWN = 20  # rows of the table


@Parameter(name="*")
@dataclass(frozen=True)
class Launch:
    """Where a study stands, and who trains it."""

    out: Path | None = None
    """The study's directory, of one study only. Left out, studies/NAME-OF-FILE."""
    on: Literal["here", "ray", "slurm"] = "here"
    """This machine; a Ray cluster (RAY_ADDRESS, or a new one here); SLURM, as arrays of jobs."""
    workers: int | None = None
    """Trials at a time. Left out: a search file's; else one, on Ray one a GPU or else a machine."""
    threads: int | None = None
    """CPU threads of each trial. Left out, those that there are, divided among the workers."""
    device: str = "auto"
    """cpu, cuda (all there are, in turn), cuda:1, mps; left out, the best there is."""
    slurm: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """What to ask SLURM for: --slurm partition=gpu --slurm time=600 (minutes), once for each."""
    dry_run: Annotated[bool, Parameter(negative=())] = False
    """Check everything and say what it would take; run nothing."""

    def where(self, workers: int | None = None) -> Where:
        """`workers` are the file's, on this machine."""
        from espalier.study.launch import choose

        if self.workers is not None or self.on != choose.HERE:
            workers = self.workers
        return choose.Where(
            self.on, self.device, workers, self.threads, choose.settings(self.slurm)
        )

    def place(self, file: Path) -> Path:
        return self.out or Path("studies") / file.stem


USUAL = Launch()


def sweep(
    file: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    launch: Launch = USUAL,
) -> dict[str, Any]:
    """Train every combination of a sweep file; call it again to go on where it stopped.

    Example: espalier sweep examples/wigglegpt-grid.yaml data.corpus=data/openwebtext --dry-run

    Parameters
    ----------
    file
        YAML or JSON: recipe, seeds, set and grid; or a file of ReaLLM-Forge's run_experiments.
    overrides
        path=value, on top of every trial.
    """
    with uncollected():
        from espalier.study import plan
        from espalier.study import size as sizing
        from espalier.study.launch import choose
    from espalier.study.pool import Pool

    where = launch.where()
    trials = plan.read(file, overrides)
    console.say(f"checking {len(trials)} trials ...")
    book = choose.book(launch.place(file), where)
    book.refuse_others(trials)
    sizes = sizing.sizes(trials)
    launcher = choose.launcher(where, book, {key: one.memory for key, one in sizes.items()})
    found = _forecast(book, trials, sizes, launcher)
    if launch.dry_run:
        return found
    with book.held(trials):
        pool = Pool(book, launcher)
        failed, stopped = _run(pool, trials)
        found = show(book.place)
    leave(stopped)
    _complain(book, failed, pool.waiting)
    return found


def _forecast(
    book: Book,
    trials: Sequence[Trial],
    sizes: Mapping[str, Size],
    launcher: Launcher,
) -> dict[str, Any]:
    """Say what is ahead, before the first run."""
    from espalier.study import forecast

    ahead = forecast.of(book, trials, sizes, launcher)
    points = len({trial.configuration for trial in trials})
    console.out(f"study    {book.place}")
    console.out(f"trials   {len(trials)}: {points} configurations, {ahead.done} finished already")
    memory, disk = f"{size(ahead.memory)} for the largest trial", f"{size(ahead.disk)} at most"
    tell_ahead(ahead, counted(launcher.most, "worker"), memory, disk)
    least = min(launcher.room.values(), default=ahead.memory)
    if ahead.memory > least:
        console.warn(f"the largest trial may not fit: {size(least)} of memory are free")
    return ahead.facts() | {"study": str(book.place), "trials": len(trials)}


def tell_ahead(ahead: Forecast, time: str, memory: str, disk: str) -> None:
    """What is left to do, and what there is for it; `time` says on how many workers."""
    known = "" if ahead.seconds is None else f"{ahead.bound} {duration(ahead.seconds)} with "
    console.out(
        f"time     {known}{time}, evaluations "
        f"not counted ({count(ahead.flops)} FLOPs, {ahead.source})"
    )
    console.out(f"memory   {memory}, as counted")
    console.out(f"disk     {disk}; {size(ahead.free)} are free")
    if ahead.disk > ahead.free:
        console.warn("the disk may become full: lower train.keep, or choose another --out")


def counted(number: int, thing: str) -> str:
    return f"1 {thing}" if number == 1 else f"{number} {thing}s"


def _run(pool: Pool, trials: Sequence[Trial]) -> tuple[dict[str, str], int]:
    """Run and tell; the trials that failed with their errors, and the signal that stopped it."""
    from espalier.study.book import COMPLETE, FAILED
    from espalier.study.pool import Event

    failed: dict[str, str] = {}
    asked: list[int] = []
    left = sum(pool.book.outcome(trial) is None for trial in trials)
    with on_signal(asked), console.progress(left, "sweep", "trials") as bar:
        for event in pool.run(trials, lambda: bool(asked)):
            tell(event)
            if not isinstance(event, Event):
                continue
            if event.state == FAILED:
                failed[event.trial.key] = event.error
            if event.state == COMPLETE:
                failed.pop(event.trial.key, None)
                bar.advance()
    return failed, asked[0] if asked else 0


def tell(event: Event | SetAside) -> None:
    from espalier.study import table
    from espalier.study.book import COMPLETE, FAILED, STARTED
    from espalier.study.pool import SetAside

    if isinstance(event, SetAside):
        console.warn(f"worker {event.worker} gets no more trials, they fail alike: {event.cause}")
    elif event.state == FAILED:
        console.warn(f"{named(event.trial)} failed: {event.error}")
    elif event.state == COMPLETE:
        loss = table.loss_of(dict(event.summary))
        console.say(f"{named(event.trial)}: {'no loss' if loss is None else f'loss {loss:.4f}'}")
    elif event.state != STARTED:
        console.say(f"{named(event.trial)}: {event.state.lower()}, it goes on from its checkpoint")


def named(trial: Trial) -> str:
    return f"{trial.key} {words(trial.settings)}".rstrip()


def words(settings: Mapping[str, Any]) -> str:
    """The last name of each path, and its value."""
    return " ".join(f"{path.rpartition('.')[2]}={value}" for path, value in settings.items())


def _complain(book: Book, failed: Mapping[str, str], left: Sequence[Trial]) -> None:
    if left:
        raise MachineError(
            f"every worker was set aside, {len(left)} trials were not run; see {book.place}/trials"
        )
    if failed:
        key, error = next(iter(failed.items()))
        raise MachineError(
            f"{len(failed)} trials failed, the first {key}: {error}. "
            f"What they said is in {book.place}/trials; the same command tries them once more"
        )


def show(place: Path, out: Path | None = None) -> dict[str, Any]:
    """The study's table, and its runs as CSV, in STUDY/trials.csv unless `out` is given."""
    from espalier.durable import write_asked
    from espalier.study import table

    records = table.complete(place)
    points = table.points(records, table.failed(place))
    sheet = out or place / "trials.csv"
    write_asked(sheet, table.to_csv(records))
    last = ", those that lost seeds last" if any(point.lost for point in points) else ""
    order = f"the lowest mean loss first{last}:"
    console.out(f"\n{len(records)} runs, configurations {len(points)}; {order}")
    for point in points[:SHOWN]:
        console.out(_row(point))
    console.out(f"wrote {sheet}")
    return {"study": str(place), "csv": str(sheet), "points": [_facts(point) for point in points]}


def _row(point: Point) -> str:
    parameters = "" if point.parameters is None else f"{count(point.parameters)} parameters"
    loss = "no finite loss" if point.loss is None else str(point.loss)
    return f"{loss:<17}  {point.replicates:<12}  {parameters:<16}  {words(point.settings)}"


def _facts(point: Point) -> dict[str, Any]:
    loss = point.loss
    return {
        "configuration": point.configuration,
        "settings": point.settings,
        "seeds": point.seeds,
        "lost": point.lost,
        "loss": None if loss is None else loss.mean,
        "half_width": None if loss is None else loss.half,
        "parameters": point.parameters,
        "seconds": point.seconds,
    }


def leave(stopped: int) -> None:
    """End as the signal that stopped it asks; go on where there was none."""
    if stopped:
        console.say("interrupted; what ran was saved. The same command goes on")
        raise SystemExit(128 + stopped)


@contextlib.contextmanager
def on_signal(asked: list[int], then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Note the first ^C or SIGTERM and call `then`; the second acts at once."""

    def note(number: int, frame: object) -> None:
        asked.append(number)
        for known, former in before.items():
            signal.signal(known, former)
        console.say("stopping: what runs is being saved ...")
        then()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
