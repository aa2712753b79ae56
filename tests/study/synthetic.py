"""A synthetic objective in place of training: a process that counts to ten and may be killed."""

from collections.abc import Sequence
from pathlib import Path

from espalier.config import refine
from espalier.experiment import Experiment
from espalier.study.book import COMPLETE, Book
from espalier.study.orders import Command, Orders
from espalier.study.plan import Trial

# Goes on from its newest checkpoint; holds the run's lock; leaves results/train.json, whole.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from espalier import lock
run, rate, pause = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
run.mkdir(exist_ok=True)
with lock.hold(run / "lock"):
    (run / "config.yaml").write_text("seed: 1")
    points = run / "checkpoints"
    points.mkdir(exist_ok=True)
    done = max((int(p.name[5:]) for p in points.glob("step-*")), default=0)
    with (run / "sessions").open("a") as stream:
        stream.write(f"{done}\\n")
    for step in range(done + 1, 11):
        time.sleep(pause)
        (points / f"step-{step:08d}").mkdir()
    (run / "results").mkdir(exist_ok=True)
    summary = {"step": 10, "val_loss": (rate - 0.1) ** 2, "best_val_loss": (rate - 0.1) ** 2}
    (run / "results" / "new").write_text(json.dumps(summary))
    os.replace(run / "results" / "new", run / "results" / "train.json")
"""


def trials(number: int) -> list[Trial]:
    """With learning rates 0.01, 0.02, ..."""
    base = Experiment()
    rates = [round(0.01 * (i + 1), 2) for i in range(number)]
    made = [refine(base, {"train": {"learning_rate": rate}}) for rate in rates]
    return [
        Trial(plan, {"train.learning_rate": rate}) for plan, rate in zip(made, rates, strict=True)
    ]


def steps(pause: float) -> Command:
    """Ten steps of so many seconds each."""

    def command(trial: Trial, book: Book, device: str) -> Orders:
        rate = trial.settings["train.learning_rate"]
        return script(SCRIPT, str(book.run(trial)), str(rate), str(pause))

    return command


objective, slow, at_once = steps(0.03), steps(0.15), steps(0.0)


def script(*words: str) -> Orders:
    """Python's `-c`, the same whether or not the run has begun."""
    return Orders(("-c", *words), ("-c", *words))


def failing(code: int, said: str) -> Orders:
    """A process that says something and ends with a code."""
    return script(f"import sys; print({said!r}, file=sys.stderr); sys.exit({code})")


def failing_if(condition: str, said: str) -> Command:
    """The objective, but for processes that find `condition` true: they fail, and say something."""

    def command(trial: Trial, book: Book, device: str) -> Orders:
        (_, code, *words), _ = objective(trial, book, device)
        (_, broken), _ = failing(1, said)
        where = condition.format(tries=str(book.beside(trial, "tries")))
        return script(f"import os\nif {where}:\n    {broken}\n{code}", *words)

    return command


def complete(book: Book) -> list[str]:
    """The keys that the record has as complete, as often as it has them."""
    return sorted(r["key"] for r in book.records() if r["state"] == COMPLETE)


def states(events: Sequence[object]) -> list[str]:
    return [getattr(event, "state", "ASIDE") for event in events]


def sessions(run: Path) -> list[int]:
    """From which step each session of a synthetic run went on."""
    return [int(line) for line in (run / "sessions").read_text().split()]
