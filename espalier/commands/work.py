"""`espalier work STUDY`: one of many workers of a search, which agree through a database."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from espalier import console
from espalier.commands.sweep import named, on_signal
from espalier.errors import MachineError, UserError
from espalier.starting import uncollected

if TYPE_CHECKING:
    from espalier.study.plan import Trial
    from espalier.study.shared import Hand


def work(
    study: Path,
    /,
    *,
    storage: Annotated[str, Parameter(env_var="ESPALIER_STORAGE")],
    device: str = "auto",
    threads: int | None = None,
    heartbeat: int = 30,
) -> dict[str, Any]:
    """Take part in a search that `espalier search FILE --storage ...` has begun.

    Example: espalier work studies/search-tpe --storage postgresql://me@host/espalier

    Call it on as many machines, and as often on each, as there is room for.

    Parameters
    ----------
    study
        The study's directory, which every machine needs at the same path.
    storage
        Where the workers agree: postgresql://user:password@host/database, or ESPALIER_STORAGE.
    device
        cpu, cuda, cuda:1, mps; left out, the best there is.
    threads
        CPU threads of each trial. Left out, all of this machine.
    heartbeat
        Seconds between two signs of life. Whoever gives none for two of them is taken for gone.
    """
    with uncollected():
        from espalier.search import hosts
        from espalier.search.plan import KEPT, kept
    from espalier import device as machine
    from espalier.study.shared import Hand, Shared
    from espalier.study.worker import Worker
    from espalier.train.setup import check_device

    for name, number in (("heartbeat", heartbeat), ("threads", threads)):
        if number is not None and number < 1:
            raise UserError(f"--{name} must be at least 1, got {number}")
    if not (study / KEPT).is_file():
        raise UserError(f"{study} has no search; first: espalier search FILE --storage ...")
    plan, own = kept(study), f"{platform.node()}:{os.getpid()}"
    shared = hosts.open_study(plan, study, storage, heartbeat)
    book, where = Shared(study.absolute()), check_device(device)
    hand = Hand(book, Worker(0, where, threads or machine.cores(), own))
    console.say(f"{own} works on {study}: {hosts.name_of(plan, study)} in {hosts.safe(storage)}")
    stopped = _work(shared, hosts.Objective(plan, book, training(hand)), hand)
    if hand.worker.aside:
        _give_back(shared, hand)
        raise MachineError(
            f"trials fail alike here, this worker ends and others get them: {hand.worker.cause}"
        )
    found = _show(shared, study)
    if stopped:
        console.say("interrupted; what ran was saved, and is for the next worker")
        raise SystemExit(128 + stopped)
    return found


def training(hand: Hand) -> Any:
    """What an objective calls: each trial to its end, and its end told."""
    from espalier.search.hosts import Failed, Interrupted
    from espalier.study import table
    from espalier.study.launch.errand import STOPPED

    def train(trials: Sequence[Trial], lease: str) -> None:
        for trial in trials:
            console.say(f"{named(trial)}: begins")
            code, error = hand.run(trial, lease)
            if code == STOPPED or hand.worker.aside:
                raise Interrupted
            if code:
                console.warn(f"{named(trial)} failed: {error}")
                raise Failed(error)
            loss = table.loss_of(hand.book.outcome(trial) or {})
            console.say(f"{named(trial)}: {'no loss' if loss is None else f'loss {loss:.4f}'}")

    return train


def _work(shared: Any, objective: Any, hand: Hand) -> int:
    """Until the search has its trials; the signal that ended it before, or 0."""
    from espalier.search import hosts

    asked: list[int] = []
    with on_signal(asked, hand.rest), contextlib.suppress(hosts.Interrupted):
        hosts.work(shared, objective)
    return asked[0] if asked else 0


def _give_back(shared: Any, hand: Hand) -> None:
    """What has failed here alike is put into the queue again, for others."""
    keys = {trial.key for trial in hand.worker.alike[:-1]}  # the last one is there already
    for trial in shared.get_trials(deepcopy=False):
        if trial.state.name == "FAIL" and keys & set(trial.user_attrs.get("keys", ())):
            shared.enqueue_trial(trial.params)


def _show(shared: Any, place: Path) -> dict[str, Any]:
    """How far the search is, as the database has it."""
    trials = shared.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = list(shared.best_trials) if done else []
    console.out(f"{len(done)} experiments of {place} have come to their end; not dominated:")
    for trial in best:
        values = ", ".join(f"{value:.6g}" for value in trial.values)
        console.out(f"  {values}  {' '.join(trial.user_attrs['keys'])}")
    console.out(f"espalier report {place}")
    return {
        "study": str(place),
        "complete": len(done),
        "best": [{"values": trial.values, "keys": trial.user_attrs["keys"]} for trial in best],
    }
