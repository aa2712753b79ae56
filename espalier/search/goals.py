"""What a search may want low: counted before a run, or measured in it."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from espalier.cost import energy
from espalier.experiment import Experiment
from espalier.nn.gpt import sketch
from espalier.run import Run
from espalier.study.book import Book, Record
from espalier.study.plan import Trial
from espalier.study.size import Size
from espalier.study.table import loss_of

Counted = Literal["parameters", "flops", "memory", "energy"]
"""parameters; operations of the whole training; bytes in training; joules a token"""
Goal = Literal["loss", "parameters", "flops", "memory", "energy", "latency"]
"""lowest validation loss; what is counted; milliseconds an update, the median"""

_COUNTED: dict[str, Callable[[Size, Experiment], float]] = {
    "parameters": lambda size, plan: size.parameters,
    "flops": lambda size, plan: size.flops,
    "memory": lambda size, plan: size.memory,
    "energy": lambda size, plan: energy.per_token(sketch(plan.model), plan.model.block_size).total,
}


def counted(size: Size, plan: Experiment, names: Iterable[str]) -> dict[str, float]:
    """Those of the names that are known before the run."""
    return {name: _COUNTED[name](size, plan) for name in names if name in _COUNTED}


def measured(book: Book, trials: Sequence[Trial], names: Iterable[str]) -> dict[str, float] | None:
    """Those that the runs tell, as means over seeds; None where one has no finite loss."""
    summaries = [book.outcome(trial) or {} for trial in trials]
    losses = [loss for summary in summaries if (loss := loss_of(summary)) is not None]
    if len(losses) < len(trials):
        return None
    found = {"loss": statistics.fmean(losses)}
    if "latency" in names:
        times = [
            _latency(book.run(trial), one) for trial, one in zip(trials, summaries, strict=True)
        ]
        found["latency"] = statistics.fmean(times)
    return found


def _latency(run: Path, summary: Record) -> float:
    """Milliseconds an update took: the median record, the first left out where there are more.

    Of a run too short for a record the mean, with its evaluations.
    """
    records = [r["ms"] for r in Run(run, {}).metrics() if r["kind"] == "train"]
    if not records:
        return 1000 * float(summary["seconds"]) / max(1, int(summary["step"]))
    return float(statistics.median(records[1:] or records))
