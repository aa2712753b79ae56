"""The few numbers by which a run is remembered."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from espalier.report.reading import Story, finite, median
from espalier.run import weights_count
from espalier.units import count, duration


@dataclass(frozen=True)
class Number:
    name: str
    value: str
    note: str = ""


def sentence(story: Story) -> str:
    """What was trained on what, for how long, when."""
    said = []
    model = story.config.get("model")
    if isinstance(model, Mapping):
        said.append(
            f"{model.get('n_layer')} layers, width {model.get('n_embd')}, "
            f"{model.get('n_head')} heads, context {model.get('block_size')}"
        )
    data = story.config.get("data")
    if isinstance(data, Mapping) and data.get("corpus"):
        said.append(f"corpus {Path(str(data['corpus'])).name}")
    said.append(f"step {story.last_step:,}")
    return "; ".join(said)


def numbers(story: Story) -> Iterator[Number]:
    """Only what the run's own records support."""
    yield from _validation(story)
    _, losses = finite(story.train, "loss")
    if losses:
        tail = losses[-max(1, len(losses) // 20) :]
        note = f"mean of the last {len(tail)} records" if len(tail) > 1 else "last record"
        yield Number("training loss", f"{sum(tail) / len(tail):.3f}", note)
    stored = parameters(story)
    if stored:
        yield Number("parameters", count(stored), f"{stored:,}")
    _, tokens = finite((*story.train, *story.evals), "tokens")
    if tokens:
        yield Number("tokens seen", count(max(tokens)), f"in {story.last_step:,} steps")
    yield from _speed(story)


def _validation(story: Story) -> Iterator[Number]:
    steps, losses = finite(story.evals, "val_loss")
    if not losses:
        return
    best = min(range(len(losses)), key=losses.__getitem__)
    start = f"{losses[0]:.3f} at step {steps[0]:,.0f}"
    lowest = "" if best == len(losses) - 1 else f"; lowest {losses[best]:.3f} at {steps[best]:,.0f}"
    perplexity = f"perplexity {math.exp(losses[-1]):.3g}"
    yield Number("validation loss", f"{losses[-1]:.3f}", f"{perplexity}; was {start}{lowest}")


def _speed(story: Story) -> Iterator[Number]:
    _, rates = finite(story.train, "tokens_per_s")
    middle = median(rates)
    if middle:
        _, shares = finite(story.train, "mfu")
        share = median(shares)
        use = f"MFU {share:.0%}" if share else "MFU n/a"
        yield Number("tokens per second", count(middle), f"median; {use}")
    spent = story.results.get("train", {}).get("seconds")
    if isinstance(spent, (int, float)):
        yield Number("training time", duration(spent), "all sessions, evaluations included")
        return
    _, times = finite((*story.train, *story.evals), "time")
    if times:
        yield Number("time", duration(max(times) - min(times)), "first record to last")


def parameters(story: Story) -> int | None:
    """Values stored in the newest checkpoint, from the headers of its safetensors files alone."""
    return weights_count(story.checkpoints[-1]) if story.checkpoints else None
