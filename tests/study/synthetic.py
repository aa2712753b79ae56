"""A synthetic objective in place of training: a process that counts to ten and may be killed."""

from pathlib import Path

from espalier.config import refine
from espalier.experiment import Experiment
from espalier.study.book import Book
from espalier.study.orders import Orders
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


def objective(trial: Trial, book: Book, device: str) -> Orders:
    rate = trial.settings["train.learning_rate"]
    return script(SCRIPT, str(book.run(trial)), str(rate), "0.03")


def script(*words: str) -> Orders:
    """Python's `-c`, the same whether or not the run has begun."""
    return Orders(("-c", *words), ("-c", *words))


def failing(code: int, said: str) -> Orders:
    """A process that says something and ends with a code."""
    return script(f"import sys; print({said!r}, file=sys.stderr); sys.exit({code})")


def sessions(run: Path) -> list[int]:
    """From which step each session of a synthetic run went on."""
    return [int(line) for line in (run / "sessions").read_text().split()]
