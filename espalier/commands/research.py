"""`espalier research`: a language model studies a problem with the verbs, inside one study."""

from __future__ import annotations

import contextlib
import importlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from espalier import console
from espalier.errors import UserError

if TYPE_CHECKING:
    from espalier.agent.endpoint import Model
    from espalier.agent.journal import Journal
    from espalier.agent.process import Runner
    from espalier.agent.toolbox import Limits, Toolbox

CODE = "espalier"
ITERATIONS = 10


@Parameter(name="*")
@dataclass(frozen=True)
class Allowed:
    """What may be read and spent."""

    read: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = ()
    """Corpora, texts, recipes and runs outside the study, ids of models; nothing else is read."""
    budget_time: str | None = None
    """Of the whole study: 30min, 2h, 90s."""
    budget_tokens: float | None = None
    """Tokens trained on; 2e6 is a number."""
    budget_runs: int | None = None
    """Runs begun."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; left out, the best there is."""

    def limits(self, experiments: int | None, model_tokens: float | None = None) -> Limits:
        """As the toolbox keeps them."""
        from espalier.agent.budget import Budget, seconds
        from espalier.agent.toolbox import Limits

        budget = Budget(
            None if self.budget_time is None else seconds(self.budget_time),
            _whole(self.budget_tokens),
            self.budget_runs,
            _whole(model_tokens),
        )
        return Limits(budget, experiments, self.device or "auto")

    def after(self, former: Mapping[str, Any]) -> Allowed:
        """What an earlier session was allowed, where nothing else is said now."""
        said = {key: value for key, value in asdict(self).items() if value not in (None, ())}
        return Allowed(**{**former, "read": tuple(former["read"]), **said})


@Parameter(name="*")
@dataclass(frozen=True)
class Mind:
    """The language model."""

    model: str | None = None
    """Its name at the endpoint; left out, the only one that is served there."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint, such as http://localhost:8000/v1; OpenAI's when left out."""
    budget_model_tokens: float | None = None
    """Tokens that it may read and write."""

    def after(self, former: Mapping[str, Any]) -> Mind:
        """As an earlier session, where nothing else is said now."""
        said = {key: value for key, value in asdict(self).items() if value is not None}
        return Mind(**{**former, **said})


NOTHING_ALLOWED, ANY_MIND = Allowed(), Mind()


def research(
    *,
    problem: Path | None = None,
    code: str = CODE,
    max_iterations: int | None = None,
    mind: Mind = ANY_MIND,
    allowed: Allowed = NOTHING_ALLOWED,
    out: Path | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Let a language model study a problem: it proposes experiments, runs them, and reports.

    Example: espalier research --problem problem.txt --read data/shakespeare --budget-time 30min

    The key is read from ESPALIER_API_KEY or OPENAI_API_KEY. ^C is safe; --resume goes on.

    Parameters
    ----------
    problem
        A text file that says what to find out.
    code
        The program whose verbs are the tools: espalier.
    max_iterations
        Experiments that may be proposed; 10 when left out.
    out
        The study to make: log.jsonl, report.md and a directory for each run. Left out,
        studies/PROBLEM.
    resume
        Go on with a study; its problem stays, budgets count what is spent already.
    """
    from espalier.agent.endpoint import Endpoint

    if code != CODE:
        raise UserError(f"--code {code}: the tools are those of one program, --code {CODE}")
    if max_iterations is not None and max_iterations < 1:
        raise UserError(f"--max-iterations must be at least 1, got {max_iterations}")
    study, text, former = _place(problem, out, resume)
    if former:
        max_iterations = max_iterations or former["max_iterations"]
        mind, allowed = mind.after(former["mind"]), allowed.after(former["allowed"])
    experiments = max_iterations or ITERATIONS
    limits = allowed.limits(experiments, mind.budget_model_tokens)
    model = Endpoint.open(mind.model, mind.base_url)
    session = {"mind": asdict(mind), "allowed": asdict(allowed), "max_iterations": experiments}
    with open_study(study, limits, allowed.read) as (tools, journal, version):
        if not journal.of("start"):
            journal.write("start", problem=text, model=model.name, version=version)
        journal.write("session", **session)
        return study_on(model, tools, journal, text)


def study_on(model: Model, tools: Toolbox, journal: Journal, problem: str) -> dict[str, Any]:
    """Run the loop to its end and write the report."""
    from espalier.agent import writing
    from espalier.agent.loop import Research

    study = tools.place.study
    loop = Research(model, tools, journal, console.say)
    try:
        loop.begin(problem)
        ending = loop.go()
    except KeyboardInterrupt:
        console.say(f"interrupted. espalier research --resume {study}")
        raise
    place, wrong = writing.write(study, journal, tools.limits.budget)
    console.out(f"ended: {ending.reason}. {tools.spent.line(tools.limits.budget)}")
    for line in wrong:
        console.warn(line)
    console.out(f"report: {place}")
    spent = asdict(tools.spent)
    return {"study": study, "ended": ending.reason, "report": place, "wrong": wrong, "spent": spent}


@contextlib.contextmanager
def open_study(
    study: Path,
    limits: Limits,
    reads: tuple[str, ...],
    runner: Runner | None = None,
) -> Iterator[tuple[Toolbox, Journal, str]]:
    """Toolbox, log and version of a study that is this process' alone meanwhile."""
    from importlib.metadata import version

    from espalier import lock
    from espalier.agent import offer
    from espalier.agent.journal import Journal
    from espalier.agent.process import Processes
    from espalier.agent.rules import Place
    from espalier.agent.toolbox import Toolbox

    place = Place.of(study, reads)
    for name in place.unfound():
        console.warn(f"--read {name}: nothing is there, so it is taken for a published model's id")
    study.mkdir(parents=True, exist_ok=True)
    processes = Processes()
    with lock.hold(study / "lock"), _ended_by_signal():
        journal = Journal(study / "log.jsonl")
        tools = Toolbox(place, offer.tools(verb), limits, journal, runner or processes)
        try:
            yield tools, journal, version("espalier")
        finally:
            processes.end()


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM ends as ^C does, so that no process of a verb is left behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def verb(name: str) -> Callable[..., Any]:
    """The function of a verb, whose signature its tool has."""
    stem = "import_" if name == "import" else name
    found: Callable[..., Any] = getattr(importlib.import_module(f"espalier.commands.{stem}"), stem)
    return found


def _place(
    problem: Path | None, out: Path | None, resume: Path | None
) -> tuple[Path, str, Mapping[str, Any]]:
    """The study, its problem, and what an earlier session was allowed."""
    if resume is not None:
        if problem is not None or out is not None:
            raise UserError("--resume goes on with a study as it is: leave --problem and --out out")
        return resume, *_former(resume)
    if problem is None:
        raise UserError("say what to find out: espalier research --problem FILE.txt")
    try:
        text = problem.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"cannot read the problem {problem}: {reason}") from None
    if not text:
        raise UserError(f"{problem} is empty: say in it what to find out")
    study = out or Path("studies") / problem.stem
    if study.exists() and (not study.is_dir() or any(study.iterdir())):
        raise UserError(f"{study} exists already; choose another --out, or --resume {study}")
    return study, text, {}


def _former(study: Path) -> tuple[str, Mapping[str, Any]]:
    from espalier.agent.journal import Journal

    if not (study / "log.jsonl").is_file():
        raise UserError(f"{study} is no study: it has no log.jsonl")
    journal = Journal(study / "log.jsonl")
    starts, sessions = journal.of("start"), journal.of("session")
    if not starts or not sessions:
        raise UserError(f"{study} has not begun: choose --problem and another --out")
    return str(starts[0]["problem"]), sessions[-1]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
