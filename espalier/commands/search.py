"""`espalier search FILE`: experiments that a strategy proposes, one result after the other."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from espalier import console
from espalier.commands.sweep import USUAL, Launch, counted, leave, on_signal, tell_ahead, words
from espalier.commands.sweep import tell as tell_of_trials
from espalier.errors import MachineError, UserError
from espalier.starting import uncollected
from espalier.units import count, size

if TYPE_CHECKING:
    from espalier.search.log import Asked, Told
    from espalier.search.plan import Plan
    from espalier.search.session import Session
    from espalier.study.book import Book, Keyed
    from espalier.study.launch import Launcher
    from espalier.study.pool import Event, SetAside
    from espalier.study.worker import Worker

SHOWN = 10  # rows of the table
LOOK = 0.2  # seconds between two looks at workers that share a search
ANY = Parameter(allow_leading_hyphen=True)


def search(
    file: Annotated[str, ANY],
    /,
    *overrides: Annotated[str, ANY],
    launch: Launch = USUAL,
    storage: str | None = None,
) -> dict[str, Any]:
    """Look for better experiments: greedy, random, halving, tpe, gp, cmaes or nsga2.

    Example: espalier search examples/search-tpe.yaml data.corpus=data/shakespeare --dry-run

    Call it again to go on where it stopped. ReaLLM-Forge's flat baseline.yaml works too.

    Parameters
    ----------
    file
        YAML: recipe, set, space, objectives, limits, strategy, trials; or a flat baseline.yaml.
    overrides
        path=value, on top of every experiment; or hyperparam_search.py's --param_names and so on.
    storage
        A database that workers on many hosts share (tpe, gp, cmaes, nsga2): postgresql://host/name.
    """
    with uncollected():
        from espalier.search import plan as planning
        from espalier.search.session import Session
        from espalier.study.launch import choose
    from espalier.study.launch.local import Local
    from espalier.study.pool import Pool

    plan, results = _plan(file, overrides)
    if storage is not None and launch.on != choose.HERE:
        raise UserError("--storage has workers of its own: leave --on out")
    where = launch.where(plan.search.workers)
    book = choose.book(launch.place(plan.document.file), where)
    needs = {trial.key: plan.count(trial)[0].memory for trial in plan.trials({})}
    launcher = choose.launcher(where, book, needs)
    found = _forecast(plan, book, launcher)
    if launch.dry_run:
        return found
    if storage is not None:
        assert isinstance(launcher, Local)  # of --on here
        return _shared(plan, book.place, storage, launcher.workers)
    with book.held([]):
        planning.keep(plan, book.place)
        problem = plan.at(book.place)
        strategy = plan.search.strategy.build(problem)
        session = Session(plan, strategy, book, Pool(book, launcher), launcher.most)
        session.needs = needs
        session.accounts += [results] if results else []
        stopped = _run(session)
        found = _show(session)
    leave(stopped)
    _complain(session)
    return found


def _shared(plan: Plan, place: Path, storage: str, workers: Sequence[Worker]) -> dict[str, Any]:
    """Workers of this machine as processes; `espalier work` elsewhere joins them."""
    from espalier.search import hosts
    from espalier.search import plan as planning

    (place / "trials").mkdir(parents=True, exist_ok=True)
    study = hosts.open_study(plan, place, storage)  # what is wrong with the database shows here
    planning.keep(plan, place)
    console.say(f"on other hosts: espalier work {place} --storage {hosts.safe(storage)}")
    call = ("work", str(place))
    on = [("--device", one.device, "--threads", str(one.threads)) for one in workers]
    stopped = _crew([(*call, *where) for where in on], storage)
    if stopped:
        raise SystemExit(stopped)
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not done:
        raise MachineError(f"no experiment has come to its end; see {place}/trials")
    best = min(done, key=lambda trial: trial.values[0])
    recipe = place / "best.yaml"
    shutil.copyfile(place / "trials" / f"{best.user_attrs['keys'][0]}.yaml", recipe)
    console.out(f"espalier train {recipe} --out runs/best")
    told = {"values": best.values, "keys": best.user_attrs["keys"], "settings": best.params}
    return {"study": str(place), "experiments": len(done), "best": told, "recipe": str(recipe)}


def _crew(calls: Sequence[Sequence[str]], storage: str) -> int:
    """Run processes of our own verbs to their end; the exit code where that was not of itself."""
    asked: list[int] = []
    told = False
    with on_signal(asked):
        crew = [
            subprocess.Popen(
                [sys.executable, "-m", "espalier", *call],
                stdout=sys.stderr,
                env={**os.environ, "ESPALIER_STORAGE": storage},
                start_new_session=True,  # so that ^C reaches them through us, once
            )
            for call in calls
        ]
        while any(one.poll() is None for one in crew):
            if asked and not told:
                told = True
                for one in crew:
                    one.terminate()
            time.sleep(LOOK)
    return 128 + asked[0] if asked else max(abs(one.returncode) for one in crew)


def _plan(file: str, overrides: Sequence[str]) -> tuple[Plan, Path | None]:
    """What the file asks for, and where the original's --results_file is to stand."""
    from espalier.search import original
    from espalier.search import plan as planning

    name, rest = original.words(file, overrides)
    document = planning.only(Path(name))
    if original.is_ours(document):
        return planning.of(document, rest), None
    flags, ours = original.split(rest)
    document, results = original.document(document, flags)
    if results is not None and (results.is_dir() or not results.parent.is_dir()):
        raise UserError(f"--results_file {results}: no file can stand there")
    return planning.of(document, ours), results


def _forecast(plan: Plan, book: Book, launcher: Launcher) -> dict[str, Any]:
    """Say what is ahead, before the first run."""
    from espalier.search.log import Ahead, Asked, Log, trained
    from espalier.study import forecast

    trials, search = plan.trials({}), plan.search
    one = plan.count(trials[0])[0]
    entries = Log(book.place).entries()
    begun = [entry for entry in entries if isinstance(entry, Asked)]
    if not begun or begun[0].keys != [trial.key for trial in trials]:  # of another baseline
        entries, begun = [], []
    others = search.strategy.takes(plan.problem, search.trials) - 1
    others -= trained(entries, partial(search.strategy.share, plan.problem))
    more = math.ceil(others * len(trials) - 1e-6)  # shares are not exact
    ahead: list[Keyed] = [Ahead(f"ahead-{i}") for i in range(more)]
    sizes = {trial.key: one for trial in (*trials, *ahead)}
    facts = forecast.of(book, [*trials, *ahead], sizes, launcher)
    left = len(trials) + len(ahead) - facts.done
    console.out(f"study    {book.place}")
    console.out(
        f"search   {search.strategy.name} for {', '.join(search.objectives)}: at most "
        f"{search.trials} configurations of {counted(len(trials), 'seed')}, "
        f"{sum(entry.fresh for entry in begun)} begun already"
    )
    console.out(f"baseline {search.recipe}: {one.parameters:,} parameters")
    for name, most in plan.limits.items():
        console.out(f"limit    {most:,.6g} {name}")
    span = f"{counted(launcher.most, 'worker')} for {left} runs as long as the baseline's"
    memory, disk = f"{size(one.memory)} for the baseline", f"about {size(facts.disk)}"
    tell_ahead(facts, span, memory, disk)
    return facts.facts() | {"study": str(book.place), "configurations": search.trials}


def _run(session: Session) -> int:
    """Run and tell; the signal that stopped it, or 0."""
    from espalier.search.log import Asked

    asked: list[int] = []
    total = session.plan.search.trials
    begun = 0
    with on_signal(asked), console.progress(total, "search", "configurations") as bar:
        for event in session.run(lambda: bool(asked)):
            _tell(session, event)
            if isinstance(event, Asked) and total - session.left > begun:
                bar.advance(total - session.left - begun)
                begun = total - session.left
    return asked[0] if asked else 0


def _tell(session: Session, event: Event | SetAside | Asked | Told) -> None:
    from espalier.search.log import Asked, Told
    from espalier.study.book import COMPLETE
    from espalier.study.pool import Event

    if isinstance(event, Told):
        one = session.asked[event.number].proposal
        if event.found is None:
            console.say(f"{event.number}: not tried: {event.why}  {words(one.settings)}")
        elif not event.why:
            best = " (best so far)" if session.best == event.number else ""
            console.say(f"{event.number}: {_values(event.found)}{best}  {words(one.settings)}")
    elif not isinstance(event, Asked) and not (
        isinstance(event, Event) and event.state == COMPLETE
    ):
        tell_of_trials(event)


def _show(session: Session) -> dict[str, Any]:
    """The best, the front, and where their recipes are."""
    from espalier.durable import write_whole
    from espalier.study import table

    place, best = session.book.place, session.best
    if session.cut is not None:
        console.say(
            f"the record held up to proposal {session.cut}; from there it was searched anew"
        )
    write_whole(place / "trials.csv", table.to_csv(table.complete(place)))
    known, front = session.known, session.front
    several = len(session.plan.search.objectives) > 1
    first = session.plan.search.objectives[0]
    rows = front if several else sorted(known, key=lambda n: (known[n][first], n))[:SHOWN]
    title = "the Pareto front" if several else "the best"
    console.out(f"\n{len(known)} experiments known; {title}:")
    for number in rows:
        mark = "*" if number == best else " "
        settings = session.asked[number].proposal.settings
        console.out(f"{mark} {number:>4}  {_values(known[number])}  {words(settings)}")
    found: dict[str, Any] = {
        "study": str(place),
        "reason": session.reason,
        "experiments": len(known),
        "baseline": _fact(session, 0) if 0 in session.told else None,
        "best": None if best is None else _fact(session, best),
        "front": [_fact(session, number) for number in front],
    }
    if best is not None:
        found["recipe"] = str(_keep_best(session, best))
        console.out(f"ended: {session.reason or 'not yet'}")
        console.out(f"espalier train {found['recipe']} --out runs/best")
    return found


def _keep_best(session: Session, best: int) -> Path:
    """STUDY/best.yaml, which `train` takes."""
    from espalier.config import encode
    from espalier.durable import write_whole
    from espalier.tree import dump

    plan, one = session.plan, session.asked[best]
    whole = plan.search.strategy.whole(one.proposal.settings)
    head = f"# Proposal {best} of the search in {session.book.place}, run {one.keys[0]}:\n"
    head += f"# {_values(session.known[best])}\n"
    if whole != one.proposal.settings:
        tokens = plan.trials(one.proposal.settings)[0].experiment.train.stop.tokens
        head += f"# measured after {tokens:,} tokens; what follows is the whole training\n"
    file = session.book.place / "best.yaml"
    write_whole(file, head + dump(encode(plan.trials(whole)[0].experiment)))
    return file


def _fact(session: Session, number: int) -> dict[str, Any]:
    one = session.asked[number]
    found = session.told[number].found
    return {
        "number": number,
        "settings": one.proposal.settings,
        "keys": one.keys,
        "values": None if found is None else dict(found),
    }


def _values(found: Any) -> str:
    """The loss first, then what is counted."""
    rest = [f"{count(value)} {name}" for name, value in found.items() if name != "loss"]
    return ", ".join([f"loss {found['loss']:.4f}", *rest])


def _complain(session: Session) -> None:
    if session.stuck or session.open:
        place = session.book.place
        raise MachineError(
            f"{len(session.open)} experiments were not brought to their end; what their runs said "
            f"is in {place}/trials. The same command tries them again"
        )
