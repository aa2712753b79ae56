"""What a run reads: one corpus, or a mixture of several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espalier.data.corpus import Corpus
from espalier.data.loader import batch, ordered
from espalier.data.mixture import Mixture, Shares
from espalier.data.settings import DataConfig
from espalier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from espalier.data.sights import Seen


class Reading:
    """Corpora of one tokenizer, opened; `names` tells them apart."""

    def __init__(self, config: DataConfig, seed: int, block_size: int):
        """UserError for a corpus that is not there, or that has another tokenizer."""
        self.config, self.seed, self.block_size = config, seed, block_size
        alone = [] if config.corpus is None else [config.corpus]
        places = [one.corpus for one in config.mixture] or alone
        self.corpora = [_opened(place, config.train_tokens) for place in places]
        if not self.corpora:
            raise UserError(
                "no corpus: data.corpus=DIR (make one: espalier prepare SOURCE --out DIR)"
            )
        self.names = _names([corpus.path for corpus in self.corpora])
        for corpus in self.corpora:
            corpus.seeing(config.images)
        for other in self.corpora[1:]:
            self._check(other)
        chats = [corpus.path for corpus in self.corpora if "chat" in corpus.meta]
        if chats and len(chats) < len(self.corpora):
            raise UserError(
                f"{chats[0]} holds conversations: mix it with others of such, not with plain text"
            )
        self._alone = ordered(self.first.train, block_size, seed) if self._one else None
        self._mixture: Mixture | None = None

    @property
    def _one(self) -> bool:
        return not self.config.mixture

    @property
    def first(self) -> Corpus:
        """The corpus whose tokenizer is everybody's."""
        return self.corpora[0]

    @property
    def images(self) -> bool:
        """Whether there are any: `seen` takes the place of `batch` then."""
        return any(corpus.images is not None for corpus in self.corpora)

    @property
    def notes(self) -> list[str]:
        """What of the samples does not fit a window, in sentences."""
        splits = [t for corpus in self.corpora for t in (corpus.train, corpus.val)]
        found = [s.sights.told(self.block_size) for s in splits if s.sights is not None]
        return [text for text in found if text]

    @property
    def ends(self) -> int | None:
        """The token behind each conversation, where it is conversations that are read."""
        return self.first.train.ends

    @property
    def train_tokens(self) -> int:
        return sum(len(corpus.train) for corpus in self.corpora)

    @property
    def val_tokens(self) -> int:
        return sum(len(corpus.val) for corpus in self.corpora)

    @property
    def digest(self) -> str:
        """SHA-256 of one corpus' tokens, or over the digests of all."""
        digests = [corpus.digest for corpus in self.corpora]
        if self._one:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()

    def mean(self, losses: Sequence[float]) -> float:
        """By the weights that the mixture ends with."""
        weights = self._last
        return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)

    @property
    def _last(self) -> list[float]:
        mixture = self.config.mixture
        return [one.weight if one.final is None else one.final for one in mixture]

    def plan(self, windows: Callable[[int], int]) -> None:
        """Fix the mixture; `windows(n)` says how many windows the first n updates read."""
        if self._one:
            return
        begin, end = map(windows, self.config.transition or (0, 0))
        shares = Shares([one.weight for one in self.config.mixture], self._last, begin, end)
        tokens = [corpus.train for corpus in self.corpora]
        self._mixture = Mixture(tokens, self.block_size, self.seed, shares, self.config.mixing)

    def batch(self, first: int, rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Windows first .. first+rows-1: inputs, targets and, of a mixture, each row's corpus."""
        if self._alone is not None:
            return *batch(self.first.train, self._alone, first, rows, self.block_size), None
        assert self._mixture is not None, "plan the mixture first"
        return self._mixture.batch(first, rows)

    def seen(self, first: int, rows: int) -> tuple[Seen, Tensor | None]:
        """As `batch`, with images; what comes next is decoded meanwhile."""
        if self._alone is None:
            assert self._mixture is not None, "plan the mixture first"
            return self._mixture.seen(first, rows)
        tokens = self.first.train
        here = self._alone.run(first, rows).tolist()
        assert tokens.sights is not None
        after = self._alone.run(first + rows, 1).tolist()
        return tokens.sights.rows(here, self.block_size, after), None

    def _check(self, other: Corpus) -> None:
        if other.vocab_size != self.first.vocab_size or other.meta.get(
            "tokenizer"
        ) != self.first.meta.get("tokenizer"):
            raise UserError(
                f"{other.path} has another tokenizer than {self.first.path}: prepare it with "
                f"--tokenizer {self.first.path}"
            )
        if other.meta.get("eot") != self.first.meta.get("eot"):
            raise UserError(
                f"{other.path} ends its conversations otherwise than {self.first.path}: prepare "
                "both with the same --chat"
            )


def _opened(place: str, most: int | None) -> Corpus:
    """A corpus, its training split ending after `most` tokens."""
    corpus = Corpus.open(place)
    if most is not None:
        if corpus.train.answers is not None:
            raise UserError(f"data.train_tokens is for plain text; {place} holds conversations")
        corpus.train = corpus.train.first(most)
    return corpus


def _names(places: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where those are not unlike."""
    short = [place.name for place in places]
    if len(set(short)) == len(short):
        return short
    return [f"{i}:{place}" for i, place in enumerate(places)]
