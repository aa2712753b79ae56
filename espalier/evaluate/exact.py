"""How many samples a model reads without a mistake, writing freely: what teacher forcing hides."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from espalier.config import decode
from espalier.data.chat import Speaker, Template
from espalier.data.corpus import Corpus
from espalier.data.reading import Reading
from espalier.data.samples import Split, samples
from espalier.engine.chat import Chat
from espalier.engine.generate import Options
from espalier.engine.sampling import Sampling
from espalier.evaluate.ocr import question, written
from espalier.nn.gpt import GPT

TOGETHER = 8  # answers written side by side
LOOKED_AT = 20  # samples of a split
SPARE = 8  # tokens beyond the true answer's


class Exact(NamedTuple):
    right: int
    asked: int

    def __str__(self) -> str:
        return f"{self.right} of {self.asked}"


def both(model: GPT, reading: Reading, block_size: int) -> dict[str, Exact]:
    """Of the first LOOKED_AT samples of each split, over all corpora with images."""
    found: dict[str, Exact] = {}
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        parts = [
            exact(model, corpus, split, block_size, LOOKED_AT)
            for corpus in reading.corpora
            if corpus.images is not None
        ]
        found[split] = Exact(*(sum(column) for column in zip(*parts, strict=True)))
    return found


def told(found: Mapping[str, Exact]) -> str:
    """Converged is who reads to the letter what it was trained on."""
    train, val = found["train"], found["val"]
    verdict = "converged" if train.right == train.asked else "not converged"
    return f"read to the letter, freely: {train} of training, {val} of validation: {verdict}"


def exact(model: GPT, corpus: Corpus, split: Split, block_size: int, most: int) -> Exact:
    """Of the first `most` samples with images, those whose last answer comes out to the letter.

    Greedy, from what precedes that answer. One that does not fit the block counts as wrong.
    """
    speaker = Speaker(decode(Template, corpus.meta["chat"], "chat"), corpus.tokenizer)
    session = Chat(model, speaker, block_size)
    told = islice((one for one in samples(corpus, split) if one.images), most)
    asked = [question(corpus, split, one) for one in told]
    right = 0
    for first in range(0, len(asked), TOGETHER):
        here = asked[first : first + TOGETHER]
        found = written(session, here, _greedy)
        right += sum(one.truth == text for one, text in zip(here, found, strict=True))
    return Exact(right, len(asked))


def _greedy(longest: int) -> Options:
    return Options(longest + SPARE, sampling=Sampling(temperature=0))
