"""What a run with images has to read, told before it begins."""

from collections import Counter

from espalier.data.reading import Reading
from espalier.data.tokens import Tokens
from espalier.train import stages
from espalier.train.progress import Progress
from espalier.train.settings import TrainConfig
from espalier.train.steps import Batch


def told(reading: Reading, config: TrainConfig, now: Progress) -> str:
    """Numbers of samples, and the shapes of the next batch; nothing of text alone."""
    if not reading.images:
        return ""
    train, val = ([getattr(corpus, s) for corpus in reading.corpora] for s in ("train", "val"))
    first = next(stages.batches(reading, config, now.step, now.sample))
    samples = f"{_samples(train):,} training, {_samples(val):,} validation samples"
    return f"{samples}; first batch: inputs {list(first.inputs.shape)}, {_images(first)}"


def _samples(splits: list[Tokens]) -> int:
    return sum(len(tokens.answers.starts) for tokens in splits if tokens.answers is not None)


def squares(batch: Batch) -> Counter[int]:
    """How many squares of pixels a batch has, by their sides."""
    found = Counter[int]()
    for row in batch.images:
        for whole, tiles in row:
            found[whole.shape[-1]] += 1
            if tiles is not None:
                found[tiles.shape[-1]] += tiles.shape[0] * tiles.shape[1]
    return found


def _images(batch: Batch) -> str:
    every = sorted(squares(batch).items())
    shapes = ", ".join(f"{n} of 3 x {side} x {side}" for side, n in every)
    return f"{sum(map(len, batch.images))} images ({shapes or 'none here'})"
