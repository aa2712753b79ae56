"""What a run's own files tell: config.yaml, environment.json, metrics.jsonl. Runs nothing."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from espalier import device as machine
from espalier.config import decode
from espalier.experiment import Experiment
from espalier.run import Run
from espalier.slow.causes import Cause

WAITS = 0.05  # of a step, for its batch
EVALUATES = 0.1  # of the run
VARIES = 1.3  # 90th percentile of a step's time over its median
OFTEN = 10  # updates between two readings that a GPU does not notice


@dataclass(frozen=True)
class Records:
    plan: Experiment
    place: dict[str, Any]
    """of the newest session"""
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @classmethod
    def of(cls, run: Run) -> "Records":
        first = run.environment
        place = {**first, **(first.get("resumed") or [{}])[-1]}
        records = run.metrics()
        told = [r for r in records if r["kind"] == "train"]
        return cls(
            decode(Experiment, run.config),
            place,
            told[1:] or told,  # the first has the warm-up in it
            [r for r in records if r["kind"] == "eval"],
        )

    @property
    def device(self) -> str:
        return str(self.place.get("device", "cpu"))

    @property
    def ms(self) -> float | None:
        """Median milliseconds of a step."""
        return statistics.median(r["ms"] for r in self.steps) if self.steps else None

    @property
    def tokens(self) -> int:
        """In one step."""
        rows = self.plan.data.batch_size * self.plan.train.gradient_accumulation_steps
        return rows * self.plan.model.block_size


def causes(records: Records) -> Iterator[Cause]:
    """Everything that the records alone can show."""
    for look in (precision, threads, loader, others, reading, evaluation, compilation):
        yield from look(records)


def precision(records: Records) -> Iterator[Cause]:
    fast = half(records)
    if records.plan.train.dtype == "float32" and fast.yes:
        yield Cause(
            "precision", f"train.dtype=float32, though {fast.why}", "train.dtype=auto takes bf16"
        )


def half(records: Records) -> machine.Answer:
    """Whether bf16 is fast there; a GPU need not be here to be known."""
    if not records.device.startswith("cuda"):
        return machine.fast_bf16(records.device)
    name = str(records.place.get("device_name"))
    return machine.Answer(machine.known_peak(name, "bf16") is not None, f"{name} is fast in bf16")


def threads(records: Records) -> Iterator[Cause]:
    count, cores = records.place.get("threads"), records.place.get("cores")
    if records.device != "cpu" or not count or not cores:
        return
    if count > cores:
        yield Cause(
            "threads",
            f"{count} threads on {cores} cores wait for each other",
            f"OMP_NUM_THREADS={cores}",
        )


def loader(records: Records) -> Iterator[Cause]:
    waits = [r["wait_ms"] / r["ms"] for r in records.steps if r.get("wait_ms") and r["ms"]]
    share = statistics.median(waits) if waits else 0.0
    if share > WAITS:
        yield Cause(
            "loader",
            f"{share:.0%} of a step waits for its batch",
            "put the corpus on a local disk, or in memory",
            1 / (1 - min(share, 0.99)),
        )


def others(records: Records) -> Iterator[Cause]:
    load, cores = records.place.get("load"), records.place.get("cores")
    times = sorted(r["ms"] for r in records.steps)
    if load and cores and load > cores / 2:
        yield Cause(
            "other programs",
            f"a load of {load:.1f} on {cores} cores when it began",
            "wait until they have ended, or leave cores free (OMP_NUM_THREADS)",
        )
    elif len(times) >= 10 and times[len(times) * 9 // 10] > VARIES * statistics.median(times):
        late, median = times[len(times) * 9 // 10], statistics.median(times)
        yield Cause(
            "other programs",
            f"one step in ten takes {late:.1f} ms or more, the median {median:.1f} ms",
            "see what else runs on this machine (top)",
            late / median,
        )


def reading(records: Records) -> Iterator[Cause]:
    interval = records.plan.train.log_interval
    if records.device.startswith("cuda") and interval < OFTEN:
        yield Cause(
            "sync points",
            f"train.log_interval={interval}: the GPU is waited for every {interval} steps",
            f"train.log_interval={OFTEN} or more",
        )


def evaluation(records: Records) -> Iterator[Cause]:
    spent = sum(r.get("seconds", 0.0) for r in records.evaluations)
    every = [r["time"] for r in (*records.steps, *records.evaluations)]
    # times are those of records' ends, so that the first evaluation's own is added
    whole = max(every) - min(every) + _first(records) if every else 0.0
    share = min(spent / whole, 0.99) if whole else 0.0
    if share <= EVALUATES:
        return
    each = spent / len(records.evaluations)
    exact = half(records).yes and records.plan.evaluate.dtype != "train"
    yield Cause(
        "evaluation",
        f"{share:.0%} of the time: {len(records.evaluations)} of {each:.1f} s each",
        f"train.eval_interval={4 * records.plan.train.eval_interval}, evaluate.eval_iters=N"
        + (", evaluate.dtype=train" if exact else ""),
        1 / (1 - share),
    )


def _first(records: Records) -> float:
    return float(records.evaluations[0].get("seconds", 0.0)) if records.evaluations else 0.0


def compilation(records: Records) -> Iterator[Cause]:
    if records.device.startswith("cuda") and records.plan.train.compile is False:
        yield Cause("compile", "train.compile=false on a GPU", "train.compile=auto")


def speed(records: Records) -> Iterator[str]:
    """How fast it went, in a line."""
    if records.ms is None:
        yield "it has not reported a step yet"
        return
    rate = 1000 * records.tokens / records.ms
    where = records.place.get("device_name") or records.place.get("cpu", "")
    shown = ", ".join(str(word) for word in (records.place.get("precision"), where) if word)
    yield f"{records.ms:.1f} ms a step of {records.tokens:,} tokens: {rate:,.0f} tokens/s ({shown})"
    used = [r["mfu"] for r in records.steps if r.get("mfu")]
    if used:
        yield f"{statistics.median(used):.0%} of the device's peak arithmetic"
