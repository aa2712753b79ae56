"""`espalier train RECIPE`: a run."""

from __future__ import annotations

import contextlib
import shutil
import signal
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from espalier import console
from espalier.errors import UserError
from espalier.starting import uncollected
from espalier.units import count, duration

if TYPE_CHECKING:
    from espalier.experiment import Experiment
    from espalier.train.events import Event, Started, Stepped

ONCE = Parameter(negative=())
FINETUNE = "finetune"  # the recipe of --init where none is named


def train(
    recipe: str | None = None,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: Path | None = None,
    init: str | None = None,
    resume: Path | None = None,
    overwrite: Annotated[bool, ONCE] = False,
    device: str = "auto",
    timing_steps: int | None = None,
) -> dict[str, Any]:
    """Train a recipe into a run directory; ^C saves, and --resume goes on bit for bit.

    Example: espalier train shakespeare-char-cpu data.corpus=data/shakespeare train.max_iters=500

    nanoGPT's way works too: espalier train config/train_shakespeare_char.py --batch_size=4

    Parameters
    ----------
    recipe
        A shipped recipe, a recipe file, or a nanoGPT config/*.py.
    overrides
        path=value, such as train.learning_rate=3e-4; or nanoGPT's --key=value.
    out
        The run directory to make. Left out, runs/RECIPE-HASH.
    init
        Fine-tune this: a run, a Hugging Face directory or id (gpt2), a ckpt.pt. The model is its.
    resume
        Go on with this run; overrides may move its end, such as train.max_iters=4000.
    overwrite
        Replace a run that stands in the way.
    device
        cpu, cuda, cuda:1, mps; left out, the best there is.
    timing_steps
        Only time so many updates: speed, memory, time and cost for the whole; no run is made.
    """
    with uncollected():
        from espalier import experiment, fit  # noqa: F401 - here with all that it imports
    from espalier.train.parallel.ranks import joined

    if recipe is not None and init is not None and "=" in recipe:
        overrides, recipe = (recipe, *overrides), None
    with joined(device) as own:
        if resume is not None:
            if out is not None or overwrite:
                raise UserError("--resume goes on in the run's own directory: leave --out out")
            if init is not None or timing_steps is not None:
                name = "--init" if init is not None else "--timing-steps"
                raise UserError(f"--resume goes on with the run as it is: leave {name} out")
            words = [*([recipe] if recipe else []), *overrides]
            return _resume(resume, words, own)
        recipe = recipe or (FINETUNE if init is not None else None)
        if recipe is None:
            raise UserError("say which recipe: espalier train RECIPE (espalier recipes lists them)")
        if former := _former(recipe, overrides):
            return _resume(*former, own)
        plan = _plan(recipe, overrides, init)
        if timing_steps is not None:
            return _time(plan, timing_steps, own)
        return _begin(plan, out or _place(recipe, overrides, plan), overwrite, own)


def _former(recipe: str, overrides: tuple[str, ...]) -> tuple[Path, list[str]] | None:
    """The run that nanoGPT's init_from=resume goes on with, and what else was said."""
    from espalier import translate

    place = translate.resumed(recipe, overrides)
    if place is None:
        return None
    where = ("--init_from=", "--out_dir=")
    return place, [word for word in overrides if not word.startswith(where)]


def _plan(recipe: str, overrides: tuple[str, ...], init: str | None) -> Experiment:
    from espalier import experiment

    if init is None:
        return experiment.load(recipe, overrides)
    begun = experiment.begun_from(experiment.load(recipe), init)
    return experiment.with_room(experiment.apply(begun, overrides))


def _place(recipe: str, overrides: tuple[str, ...], plan: Experiment) -> Path:
    from espalier import translate
    from espalier.config import digest

    named = translate.out_dir(recipe, overrides)
    return named or Path("runs") / f"{Path(recipe).stem}-{digest(plan)}"


def _begin(plan: Experiment, place: Path, overwrite: bool, device: str) -> dict[str, Any]:
    from espalier.train.parallel.ranks import here

    _fits(plan, device)
    former = _aside(place, overwrite) if here().leads else None
    return _show(plan, place, device=device, former=former)


def _time(plan: Experiment, steps: int, device: str) -> dict[str, Any]:
    from espalier import timing
    from espalier.train.parallel.ranks import here

    if here().count > 1:
        raise UserError("--timing-steps times one device: leave torchrun out")
    found = timing.measure(plan, steps, device)
    for line in timing.lines(found):
        console.out(line)
    return timing.facts(found)


def _resume(place: Path, overrides: list[str], device: str) -> dict[str, Any]:
    from espalier import experiment
    from espalier.durable import read_json
    from espalier.run import Run

    if (place / "ckpt.pt").is_file() and not (place / "config.yaml").is_file():
        raise UserError(
            f"{place} holds another program's ckpt.pt. First make a run of it: "
            f"espalier import {place / 'ckpt.pt'} --corpus DIR --out {place}-run"
        )
    run = Run.open(place)
    plan = experiment.load(str(place / "config.yaml"), overrides)
    done = place / "results" / "train.json"
    if not overrides and done.is_file():
        summary = dict(read_json(done))
        console.out(f"{place} is finished: {_outcome(summary)}.")
        more = 2 * max(1, int(summary["step"]))
        console.out(f"To go on: espalier train --resume {place} train.max_iters={more}")
        return summary
    _fits(plan, device)
    return _show(plan, run.path, device=device, resume=True)


def _fits(plan: Experiment, device: str) -> None:
    """MachineError where memory cannot hold it; what else is wrong, `fit` says."""
    from espalier import experiment
    from espalier.train.parallel.ranks import here
    from espalier.train.setup import check_device

    if here().count > 1 and plan.train.parallel == "fsdp":
        return  # of which a rank holds a part
    plan = experiment.with_vocabulary(plan)
    if plan.model.vocab_size is not None:
        experiment.require_memory(plan, check_device(device))


def _aside(place: Path, overwrite: bool) -> Path | None:
    """Where the run at `place` waits until another has begun there; None where there is none."""
    if not (place / "config.yaml").is_file():
        return None  # Run.create refuses whatever else stands there
    from espalier.lock import owner_of

    owner = owner_of(place / "lock")
    if owner:
        raise UserError(f"{place} is being trained by process {owner['pid']}; choose another --out")
    if not overwrite:
        finished = (place / "results" / "train.json").is_file()
        raise UserError(
            f"{place} holds a {'finished' if finished else 'begun'} run. "
            f"Go on with it: --resume {place}; replace it: --overwrite; or choose another --out"
        )
    return place.rename(place.with_name(f"{place.name}.was-{uuid.uuid4().hex[:8]}"))


def _begun(events: Iterator[Event], place: Path, former: Path | None) -> Iterator[Event]:
    """The same events; a run that stood at `place` comes back if the new one never begins."""
    try:
        first = next(events)
    except BaseException:
        if former:
            _back(former, place)
        raise
    if former:
        shutil.rmtree(former)
    yield first
    yield from events


def _back(former: Path, place: Path) -> None:
    """Put a run back in the place of one that never began, unless that is in somebody's use."""
    from espalier.lock import owner_of

    if owner_of(place / "lock"):
        console.warn(f"the run that stood at {place} is now {former}")
        return
    shutil.rmtree(place, ignore_errors=True)
    former.rename(place)


def _show(
    plan: Experiment,
    place: Path,
    *,
    device: str,
    resume: bool = False,
    former: Path | None = None,
) -> dict[str, Any]:
    """Drive a run and tell of it; the summary."""
    from espalier.fit import fit
    from espalier.train.events import Finished
    from espalier.train.parallel.ranks import here

    asked: list[int] = []
    teller = _Teller() if here().leads else _Silence()
    with _on_signal(asked, lambda: teller.remark("stopping after this step, saving …")):
        events = fit(plan, place, resume=resume, device=device, interrupted=lambda: bool(asked))
        for event in _begun(events, place, former):
            try:
                teller.tell(event)
            except BrokenPipeError:  # `| head` has gone; the run goes on
                console.unheard()
    assert isinstance(event, Finished)
    if event.reason == "interrupted":
        teller.remark(f"interrupted at step {event.step}. espalier train --resume {place}")
        raise SystemExit(128 + (asked[0] if asked else signal.SIGTERM))
    console.out(f"done: {_outcome(event.summary)}. {place}")
    if event.reason != "eval_only":
        reads = (place / "results" / "exact.json").is_file()
        prompt = "--image FILE --prompt 'Free OCR.'" if reads else "--prompt 'Once'"
        console.out(f"espalier sample {place} {prompt}")
        console.out(f"espalier report {place}")
    return event.summary


@contextlib.contextmanager
def _on_signal(asked: list[int], remark: Any) -> Iterator[None]:
    """Note the first ^C or SIGTERM; the second acts at once, but for torchrun's: it sends two."""
    from espalier.train.parallel.ranks import here

    def note(number: int, frame: object) -> None:
        if not asked:
            remark()
        asked.append(number)
        if here().count == 1:
            for known, former in before.items():
                signal.signal(known, former)

    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in known}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _outcome(summary: dict[str, Any]) -> str:
    whys = {
        "seconds": ", out of time",
        "tokens": ", enough tokens",
        "val_loss": ", loss reached",
        "patience": ", no better any more",
    }
    loss = summary.get("val_loss")
    said = "" if loss is None else f", val loss {loss:.4f}"
    best = summary.get("best_val_loss")
    if best is not None and best != loss:
        said += f" (best {best:.4f} at step {summary['best_step']})"
    return (
        f"{summary['step']:,} steps, {count(summary['tokens'])} tokens, "
        f"{duration(summary['seconds'])}{said}{whys.get(summary['reason'], '')}"
    )


def _silent(shares: Mapping[str, float]) -> str:
    return f", silent {100 * shares['silent']:.1f} %" if "silent" in shares else ""


class _Silence:
    """What the ranks say that are not the first."""

    def remark(self, text: str) -> None:
        pass

    def tell(self, event: Event) -> None:
        pass


class _Teller(_Silence):
    """Puts events into words: nanoGPT's lines, and a headline."""

    def __init__(self) -> None:
        self.start: Started | None = None
        self.told = 0

    def remark(self, text: str) -> None:
        console.say(text)

    def tell(self, event: Event) -> None:
        from espalier.train import events

        if isinstance(event, events.Started):
            self.start = event
            self._headline(event)
        elif isinstance(event, events.Stepped):
            self._step(event)
        elif isinstance(event, events.Evaluated):
            console.out(
                f"step {event.step}: train loss {event.train_loss:.4f}, "
                f"val loss {event.val_loss:.4f}{_silent(event.shares)}"
                f"{' (best)' if event.best and event.step else ''}"
            )
        elif isinstance(event, events.Sampled):
            console.out(f"--- sample at step {event.step}\n{event.text}\n---")
        elif isinstance(event, events.Noted):
            console.warn(event.message)

    def _headline(self, start: Started) -> None:
        from espalier import device

        corpus = f"{count(start.train_tokens)} training, {count(start.val_tokens)} validation"
        left = start.horizon - start.step
        whole = count(left * start.tokens_per_step)
        exact = "resume is bit for bit" if start.exact else "resume is close, not bit for bit"
        from_where = f" from step {start.step}" if start.step else ""
        number = "1 thread" if start.threads == 1 else f"{start.threads} threads"
        threads = f", {number}" if start.device == "cpu" else ""
        threads += f", {start.ranks} ranks" if start.ranks > 1 else ""
        frozen = start.trainable < start.parameters
        for line in (
            f"run         {start.run}{from_where}",
            f"model       {start.parameters:,} parameters"
            + f", {start.trainable:,} trainable" * frozen,
            f"corpus      {corpus} tokens",
            *([f"images      {start.images}"] if start.images else []),
            f"horizon     {left:,} steps of {start.tokens_per_step:,} tokens, {whole} in all",
            f"precision   {start.precision}",
            f"device      {start.device}: {device.name(start.device)}{threads}; {exact}",
        ):
            console.out(line)

    def _step(self, event: Stepped) -> None:
        mfu = "n/a" if event.mfu is None else f"{100 * event.mfu:.1f}%"
        line = (
            f"iter {event.step}: loss {event.loss:.4f}, time {event.ms:.2f}ms, mfu {mfu}, "
            f"{count(event.tokens_per_s)} tokens/s{_silent(event.shares)}"
        )
        if self.start is not None:
            left = (self.start.horizon - event.step) * event.ms / 1000
            line += f", {duration(left)} left" if left else ""
            self.told += 1
            if self.told == 2 and left:  # the first mean still has the warm-up in it
                console.out(f"expected    {duration(left)} of training, evaluations not counted")
        console.say(line)
