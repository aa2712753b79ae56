"""The two losses of a training run: all of validation, and as much of training as it needs."""

import contextlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.data.reading import Reading
from espalier.data.tokens import Tokens
from espalier.evaluate.loss import BUDGET, Autocast, score, spread
from espalier.evaluate.settings import EvaluateConfig
from espalier.nn.gpt import GPT
from espalier.train import checkpoint
from espalier.train.hearing import Hearing
from espalier.train.parallel.spread import Spread

Part = tuple[Tokens, NDArray[np.int64], Hearing | None]
TRAIN_TOKENS = 2 * BUDGET  # enough for a standard error near 0.01 nats


class Splits:
    """Fixed windows of both splits, chosen once. Raises UserError for a split that has none.

    Of a mixture, losses are means by weight; `apart` has the validation loss of each corpus.
    """

    among: Spread | None = None
    """the ranks that share the work"""

    def __init__(
        self, reading: Reading, block_size: int, config: EvaluateConfig, training: Autocast
    ):
        """`training`: the autocast of the training step, for `dtype: train`."""
        self.reading, self.block_size, self.most = reading, block_size, config.eval_iters
        self.autocast = training if config.dtype == "train" else contextlib.nullcontext
        self.hearing = Hearing()  # of the last validation pass
        self.parts = [self._parts(corpus) for corpus in reading.corpora]
        self.apart: dict[str, float] = {}

    def _parts(self, corpus: Corpus) -> tuple[Part, Part]:
        train = spread(windows(corpus.train, self.block_size), self.most)
        val = spread(windows(corpus.val, self.block_size), self.most)
        few = spread(train, max(1, TRAIN_TOKENS // self.block_size))
        return (corpus.train, few, None), (corpus.val, val, self.hearing)

    def __call__(self, model: GPT, between: Callable[[int], None]) -> tuple[float, float]:
        """Training and validation loss; leaves the random generators as they are."""
        kept = checkpoint.randomness()
        self.hearing.clear()
        try:
            found = [
                [self._loss(model, part, place, between) for part in parts]
                for place, parts in enumerate(self.parts)
            ]
        finally:
            checkpoint.restore(kept)
        if len(found) == 1:
            return found[0][0], found[0][1]
        self.apart = {name: val for name, (_, val) in zip(self.reading.names, found, strict=True)}
        train, val = (self.reading.mean(column) for column in zip(*found, strict=True))
        return train, val

    def _loss(self, model: GPT, part: Part, place: int, between: Callable[[int], None]) -> float:
        tokens, starts, hearing = part
        return score(
            model,
            tokens,
            starts,
            self.block_size,
            autocast=self.autocast,
            between=between,
            hearing=hearing,
            source=place if len(self.parts) > 1 else None,
            among=self.among,
        ).loss
