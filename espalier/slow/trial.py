"""A few steps of the run's own kind on this machine: where their time goes, and what is faster."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from espalier import device as machine
from espalier.experiment import Experiment, apply
from espalier.native import build
from espalier.nn.gpt import make
from espalier.slow.causes import Cause, faster
from espalier.train import setup
from espalier.train.steps import Stepper

STEPS, SECONDS = 10, 5.0  # of each comparison, whatever comes first
PAYS = 1.1  # times faster, to be worth a line
CATEGORIES = {  # by what names of operators and of CUDA kernels hold, the first that fits
    "attention": ("attention", "flash", "fmha"),
    "optimizer": ("adam", "foreach", "multi_tensor"),
    "matrix products": ("mm", "linear", "matmul", "conv", "cutlass", "nvjet"),
    "copies and casts": ("copy", "memcpy", "memset"),
}


@dataclass
class Trial:
    """One way to train: a configuration, a micro-batch, a number of threads."""

    plan: Experiment
    device: str
    threads: int
    step: Callable[[], object] = field(init=False)
    stepper: Stepper = field(init=False)

    def __post_init__(self) -> None:
        rows, model = self.plan.data.batch_size, self.plan.model
        assert model.vocab_size is not None
        net = make(model, self.plan.seed, self.device).train()
        self.stepper = setup.stepper(net, model, self.plan.train, rows, self.device)
        setup.compile_step(self.stepper, self.plan.train.compile, (rows, model.block_size), 10**9)
        batch: tuple[Tensor, Tensor] = tuple(  # type: ignore[assignment]
            torch.randint(model.vocab_size, (rows, model.block_size)) for _ in range(2)
        )
        self.step = lambda: self.stepper(*batch, 0.0)

    @property
    def tokens(self) -> int:
        return self.plan.data.batch_size * self.plan.model.block_size

    def seconds(self) -> float:
        """Of one step; the threads are awake, since one went before."""
        torch.set_num_threads(self.threads)
        self.step()
        self._wait()
        start = time.perf_counter()
        self.step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def compare(one: Trial, other: Trial) -> tuple[float, float]:
    """Seconds that a token takes either way: medians over steps in turn."""
    times: list[tuple[float, float]] = []
    one.seconds(), other.seconds()
    end = time.perf_counter() + SECONDS
    while len(times) < STEPS and (len(times) < 2 or time.perf_counter() < end):
        times.append((one.seconds(), other.seconds()))
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first / one.tokens, second / other.tokens


def causes(base: Trial) -> Iterator[Cause]:
    """What a few steps show to be faster; changes nothing of the run."""
    for look in (precision, threads, recomputing, batch, attention):
        yield from look(base)


def precision(base: Trial) -> Iterator[Cause]:
    now = base.stepper.precision.short
    fast = machine.fast_bf16(base.device)
    if now == "bf16" or not fast.yes:
        return
    ms = _gain(base, "train.dtype=bfloat16")
    if ms:
        yield Cause(
            "precision",
            f"{_ms(ms[0], base)} a micro-batch in {now}, {_ms(ms[1], base)} in bf16 ({fast.why})",
            f"train.dtype=bfloat16 ({faster(*ms)})",
            ms[0] / ms[1],
        )


def threads(base: Trial) -> Iterator[Cause]:
    if base.device != "cpu":
        return
    best: tuple[float, int, tuple[float, float]] | None = None
    for count in sorted({1, machine.cores()} - {base.threads}):
        was, now = compare(base, Trial(base.plan, base.device, count))
        if was / now > max(PAYS, best[0] if best else 0):
            best = was / now, count, (was, now)
    if best:
        gain, count, ms = best
        yield Cause(
            "threads",
            f"{_ms(ms[0], base)} a micro-batch with {base.threads} threads, "
            f"{_ms(ms[1], base)} with {count}",
            f"OMP_NUM_THREADS={count} ({gain:.1f} times faster)",
            gain,
        )


def recomputing(base: Trial) -> Iterator[Cause]:
    """Activation checkpointing where memory would do without."""
    rows, train = base.plan.data.batch_size, base.plan.train
    needed = setup.too_large(base.plan.model, rows, base.device)
    if not base.stepper.objective.checkpoint or needed:
        return
    assert train.checkpoint_activations is True
    ms = _gain(base, "train.checkpoint_activations=false")
    if ms:
        yield Cause(
            "recomputed activations",
            f"{_ms(ms[0], base)} a micro-batch with them, {_ms(ms[1], base)} without; they fit",
            f"train.checkpoint_activations=auto ({faster(*ms)})",
            ms[0] / ms[1],
        )


def batch(base: Trial) -> Iterator[Cause]:
    rows, accumulation = base.plan.data.batch_size, base.plan.train.gradient_accumulation_steps
    if setup.too_large(base.plan.model, 2 * rows, base.device):
        return
    ms = _gain(base, f"data.batch_size={2 * rows}")
    if not ms:
        return
    even = accumulation % 2 == 0
    same = f" train.gradient_accumulation_steps={accumulation // 2}" if even else ""
    note = "the same numbers" if even else "a larger batch: it trains otherwise"
    yield Cause(
        "small batch",
        f"{1 / ms[0]:,.0f} tokens/s with micro-batches of {rows} rows, {1 / ms[1]:,.0f} with "
        f"{2 * rows}",
        f"data.batch_size={2 * rows}{same} ({faster(*ms)}; {note})",
        ms[0] / ms[1],
    )


def attention(base: Trial) -> Iterator[Cause]:
    """Layers that do not go through a fused kernel."""
    parts = [p for p in base.stepper.objective.model.modules() if hasattr(p, "fused")]
    plain = [part for part in parts if not part.fused]
    if plain:
        yield Cause(
            "attention",
            f"{len(plain)} of {len(parts)} layers make their scores one by one "
            "(softcap, or a score other than softmax)",
            "none, where the model is to stay as it is",
        )
    why = build.why_not()
    if base.device == "cpu" and why is not None:
        yield Cause("attention", f"no native kernels: {why}", "install a C++ compiler")


def _gain(base: Trial, *overrides: str) -> tuple[float, float] | None:
    """Seconds a token as it is and with the overrides; None unless that pays."""
    try:
        other = Trial(apply(base.plan, overrides), base.device, base.threads)
        was, now = compare(base, other)
    except torch.OutOfMemoryError:
        return None
    return (was, now) if was / now >= PAYS else None


def _ms(seconds: float, base: Trial) -> str:
    return f"{1000 * seconds * base.tokens:.1f} ms"


def shares(base: Trial) -> dict[str, float]:
    """Where the time of a step goes, by kind of operation; on a GPU, of its own time."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = base.device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    base.seconds()
    with profile(activities=kinds) as found:
        base.seconds()
    times: dict[str, float] = {}
    for event in found.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        kind = _category(event.key.lower())
        times[kind] = times.get(kind, 0.0) + spent
    whole = sum(times.values()) or 1.0
    parts = {kind: spent / whole for kind, spent in times.items() if spent > 0.01 * whole}
    return dict(sorted(parts.items(), key=lambda pair: -pair[1]))


def _category(name: str) -> str:
    for kind, words in CATEGORIES.items():
        if any(word in name for word in words):
            return kind
    return "everything else"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Threads and random generators are afterwards as before."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(before)
