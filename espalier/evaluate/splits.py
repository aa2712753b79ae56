"""The two losses of a training run: all of validation, and as much of training as it needs."""

import contextlib
from collections.abc import Callable

from espalier.data.corpus import Corpus
from espalier.data.loader import windows
from espalier.evaluate.loss import BUDGET, Autocast, score, spread
from espalier.evaluate.settings import EvaluateConfig
from espalier.nn.gpt import GPT
from espalier.train import checkpoint
from espalier.train.hearing import Hearing

TRAIN_TOKENS = 2 * BUDGET  # enough for a standard error near 0.01 nats


class Splits:
    """Fixed windows of both splits, chosen once. Raises UserError for a split that has none."""

    def __init__(self, corpus: Corpus, block_size: int, config: EvaluateConfig, training: Autocast):
        """`training`: the autocast of the training step, for `dtype: train`."""
        self.block_size = block_size
        self.autocast = training if config.dtype == "train" else contextlib.nullcontext
        train = spread(windows(corpus.train, block_size), config.eval_iters)
        val = spread(windows(corpus.val, block_size), config.eval_iters)
        few = spread(train, max(1, TRAIN_TOKENS // block_size))
        self.hearing = Hearing()  # of the last validation pass
        self.parts = ((corpus.train, few, None), (corpus.val, val, self.hearing))

    def __call__(self, model: GPT, between: Callable[[int], None]) -> tuple[float, float]:
        """Training and validation loss; leaves the random generators as they are."""
        kept = checkpoint.randomness()
        self.hearing.clear()
        try:
            train, val = (
                score(
                    model,
                    tokens,
                    starts,
                    self.block_size,
                    autocast=self.autocast,
                    between=between,
                    hearing=hearing,
                ).loss
                for tokens, starts, hearing in self.parts
            )
        finally:
            checkpoint.restore(kept)
        return train, val
