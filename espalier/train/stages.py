"""Sizes of batch and window that change during a run, as pure functions of the updates made."""

import itertools
from collections.abc import Iterator

from espalier.data.reading import Reading
from espalier.errors import ConfigError, UserError
from espalier.train.parallel.ranks import here
from espalier.train.settings import TrainConfig
from espalier.train.steps import Batch, shortened


def check(config: TrainConfig, block_size: int, *, images: bool = False) -> None:
    """ConfigError for stages out of order, or for windows that cannot be cut so, as with images."""
    starts = [stage.start for stage in config.batch_schedule]
    if starts != sorted(set(starts)):
        raise ConfigError(f"train.batch_schedule: starts must grow, got {starts}")
    ends = [stage.until for stage in config.length_schedule]
    if ends != sorted(set(ends)):
        raise ConfigError(f"train.length_schedule: until must grow, got {ends}")
    if images and ends:
        raise ConfigError("train.length_schedule cuts rows, and would cut images in them")
    for i, stage in enumerate(config.length_schedule):
        if block_size % stage.block_size:
            near = [n for n in range(1, block_size + 1) if block_size % n == 0]
            nearest = sorted(near, key=lambda n: abs(n - stage.block_size))[:3]
            raise ConfigError(
                f"train.length_schedule.{i}.block_size={stage.block_size} must divide "
                f"model.block_size={block_size}. Near: {', '.join(map(str, sorted(nearest)))}."
            )


def check_shares(config: TrainConfig, micro: int, ranks: int) -> None:
    """UserError for a batch whose rows cannot be dealt to `ranks` alike."""
    later = (stage.gradient_accumulation_steps for stage in config.batch_schedule)
    for steps in (config.gradient_accumulation_steps, *later):
        rows = micro * steps
        if rows % ranks:
            fit = [n for n in range(1, rows + 1) if rows % n == 0]
            near = sorted(sorted(fit, key=lambda n: abs(n - ranks))[:3])
            raise UserError(
                f"{ranks} ranks cannot share {rows} rows alike (data.batch_size={micro} x "
                f"gradient_accumulation_steps={steps}). "
                f"Near: {', '.join(map(str, near))} ranks."
            )


def accumulation(config: TrainConfig, step: int) -> int:
    """Micro-batches in update `step`, counted from 0."""
    past = [s for s in config.batch_schedule if s.start <= step]
    return (past[-1] if past else config).gradient_accumulation_steps


def cut(config: TrainConfig, step: int, block_size: int) -> int:
    """How many rows a window of `block_size` makes in update `step`."""
    to_come = [stage for stage in config.length_schedule if step < stage.until]
    return block_size // to_come[0].block_size if to_come else 1


def micro_batches(config: TrainConfig, steps: int) -> int:
    """Of the first `steps` updates together."""
    total, before, size = 0, 0, config.gradient_accumulation_steps
    for stage in config.batch_schedule:
        if stage.start >= steps:
            break
        total += size * (stage.start - before)
        before, size = stage.start, stage.gradient_accumulation_steps
    return total + size * (steps - before)


def updates(config: TrainConfig, wanted: int) -> int:
    """The fewest updates that read `wanted` micro-batches."""
    starts = [stage.start for stage in config.batch_schedule]
    first = max((s for s in starts if micro_batches(config, s) < wanted), default=0)
    left = wanted - micro_batches(config, first)
    return first + -(-left // accumulation(config, first))


def batches(reading: Reading, config: TrainConfig, step: int, first: int) -> Iterator[Batch]:
    """The effective batches from update `step` on, whose first window is number `first`.

    Of ranks each gets its rows of them: whole micro-batches, as one process would make, where
    there is one for each rank.
    """
    ranks = here()
    micro, size = reading.config.batch_size, reading.block_size
    for update in itertools.count(step):
        rows = micro * accumulation(config, update)
        share = rows // ranks.count
        if reading.images:
            yield _seen(reading, first + ranks.rank * share, share)
        else:
            inputs, targets, source = reading.batch(first + ranks.rank * share, share)
            yield shortened(Batch(inputs, targets, micro, source), cut(config, update, size))
        first += rows


def _seen(reading: Reading, first: int, rows: int) -> Batch:
    (inputs, targets, positions, slots, images), source = reading.seen(first, rows)
    micro = reading.config.batch_size
    return Batch(inputs, targets, micro, source, images, slots, positions)
