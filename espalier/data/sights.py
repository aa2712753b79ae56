"""Samples with images as windows for a model: the images' features stand among the tokens.

Samples fill windows whole, in order, as many as fit, or stand alone in a row; each is a document of
its own, whose positions begin at 0. On disk an image takes no token: where it stands, and how many
features it has, is worked out when a window is read (`espalier.data.album`), by `data.images`.

    corpus = Corpus.open(place)           # or Reading(config, seed, block_size).corpora
    corpus.seeing(config.images)          # how images are read; as prepared when left out
    numbers = loader.windows(corpus.val, block_size)          # as for text: what `seen` takes
    rows = loader.seen(corpus.val, numbers[:4], block_size)   # of any corpus; text has no images
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from espalier.data.album import LOOK, Strip
from espalier.data.images import Mode, Views
from espalier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from espalier.data.album import Album
    from espalier.data.settings import ImagesConfig
    from espalier.data.tokens import Tokens

Ints = NDArray[np.int64]


class Seen(NamedTuple):
    """Rows of a batch that may hold images."""

    inputs: Tensor
    """int64 (rows, time); the id of the image token where a feature stands"""
    targets: Tensor
    """likewise; -1 = none"""
    positions: Tensor
    """int64 (rows, time), beginning at 0 with each sample; -1 = padding, always on the right"""
    slots: Tensor
    """int64 (rows, time): which feature of the row's own images stands there; -1 = the token"""
    images: tuple[Sequence[Views], ...]
    """of each row, in order; decoded when they are looked at"""


class Row(NamedTuple):
    """Samples one behind the other, their images' features among the tokens: [length] each."""

    ids: Ints
    learnt: NDArray[np.bool_]
    """whether it is a target"""
    slots: Ints
    positions: Ints
    numbers: list[int]
    """of the images, in order"""

    def cut(self, length: int) -> Row:
        """Its beginning; the images all stand in it."""
        ids, learnt, slots, positions, numbers = self
        return Row(ids[:length], learnt[:length], slots[:length], positions[:length], numbers)

    def behind(self, other: Row) -> Row:
        """Both in one, `other` first."""
        slots = np.where(self.slots >= 0, self.slots + (other.slots >= 0).sum(), -1)
        return Row(
            np.append(other.ids, self.ids),
            np.append(other.learnt, self.learnt),
            np.append(other.slots, slots),
            np.append(other.positions, self.positions),
            other.numbers + self.numbers,
        )


class Bins(NamedTuple):
    """The samples of each window, and what had to be done to make them fit."""

    samples: list[Ints]
    shortened: int
    """samples of which the end is left out"""
    left_out: int
    """those that would lose an image, or every answer"""


class Sights:
    """One split of a corpus with images, read as `how` says in the mode `mode`."""

    def __init__(self, tokens: Tokens, album: Album, mode: Mode, how: ImagesConfig, image_id: int):
        """`tokens` has answers; beside its file NAME.bin stands NAME.places.bin: place, number."""
        assert tokens.answers is not None
        self.tokens, self.album, self.mode, self.how = tokens, album, mode, how
        self.image_id, self.mask = image_id, tokens.answers.mask
        self.edges: Ints = np.append(tokens.answers.starts, len(tokens))
        index = np.fromfile(_index(tokens.files[0]), "<i8").reshape(-1, 2)
        self.places, self.numbers = index[:, 0], index[:, 1]
        self.homes: Ints = np.searchsorted(self.edges, self.places, side="right") - 1  # samples
        self.counts = album.counts(mode)
        self.bins = lru_cache(maxsize=4)(self._bins)

    def rows(self, windows: Iterable[int], block_size: int, after: Iterable[int] = ()) -> Seen:
        """Windows by their numbers; packed ones have `block_size` columns, others as they need.

        Images of windows `after` them are decoded ahead.
        """
        import torch

        bins = self.bins(block_size).samples
        found = [self._row(bins[window]).cut(block_size + 1) for window in windows]
        width = block_size
        if self.how.rows == "alone":
            width = max(len(row.ids) for row in found) - 1
        inputs, targets, positions, slots = np.full((4, len(found), width), -1, np.int64)
        inputs[:] = self.image_id
        for i, row in enumerate(found):
            here = slice(0, len(row.ids) - 1)
            inputs[i, here], slots[i, here] = row.ids[:-1], row.slots[:-1]
            positions[i, here] = row.positions[:-1]
            targets[i, here] = np.where(row.learnt[1:], row.ids[1:], -1)
        if self.how.targets == "published":
            targets[slots >= 0] = -1
        there = torch.from_numpy
        later = [n for window in after for s in bins[window].tolist() for n in self.images_of(s)]
        images = self._strips([row.numbers for row in found], later)
        return Seen(there(inputs), there(targets), there(positions), there(slots), images)

    def told(self, block_size: int) -> str:
        """What of the samples does not fit, in a sentence; nothing where all do."""
        _, shortened, left_out = self.bins(block_size)
        told = {
            "lose their end": shortened,
            "are left out, whose images or answers lie behind it": left_out,
        }
        parts = [f"{count:,} {what}" for what, count in told.items() if count]
        where = f"{self.tokens.files[0]}, samples longer than block_size={block_size}: "
        return where + ", ".join(parts) if parts else ""

    def _strips(self, rows: Sequence[Sequence[int]], later: Sequence[int]) -> tuple[Strip, ...]:
        flat = [*itertools.chain(*rows), *later]
        self.album.ahead(flat[:LOOK], self.mode)
        ends = itertools.accumulate(map(len, rows))
        return tuple(
            Strip(self.album, self.mode, row, flat[end : end + LOOK])
            for row, end in zip(rows, ends, strict=True)
        )

    def images_of(self, sample: int) -> list[int]:
        """The numbers of a sample's images in the album, in order."""
        found: list[int] = self.numbers[self._here(sample)].tolist()
        return found

    def _here(self, sample: int) -> slice:
        first, last = np.searchsorted(self.places, self.edges[sample : sample + 2])
        return slice(int(first), int(last))

    def _row(self, samples: Iterable[int]) -> Row:
        parts = [self._sample(int(sample)) for sample in samples]
        return reduce(lambda before, part: part.behind(before), parts)

    def _sample(self, sample: int) -> Row:
        begin, end = self.edges[sample : sample + 2].tolist()
        here, size = self._here(sample), end - begin
        counts = self.counts[self.numbers[here]]
        grown = np.bincount(self.places[here] - begin, counts, minlength=size)
        at = np.arange(size) + np.cumsum(grown).astype(np.int64)
        total = size + int(counts.sum())
        ids, slots = np.full(total, self.image_id), np.full(total, -1)
        ids[at] = self.tokens.gather(begin, size)[0]
        feature = np.ones(total, bool)
        feature[at] = False
        slots[feature] = np.arange(total - size)
        learnt = np.full(total, self.how.targets == "published")
        if self.how.targets == "answers":
            learnt[at] = self.mask[begin:end].astype(bool)
        learnt[0] = False  # of the sample before it
        row = Row(ids, learnt, slots, np.arange(total), self.images_of(sample))
        # what closes a sample here is no part of the original's
        return row.cut(total - 1) if self.how.targets == "published" else row

    def _lengths(self) -> Ints:
        samples = len(self.edges) - 1
        features = np.bincount(self.homes, self.counts[self.numbers], minlength=samples)
        whole = np.diff(self.edges) + features.astype(np.int64)
        return whole - (self.how.targets == "published")

    def _bins(self, block_size: int) -> Bins:
        lengths = np.minimum(self._lengths(), block_size + 2)
        long = np.flatnonzero(lengths > block_size + 1).tolist()
        lost = {sample for sample in long if not self._worth(sample, block_size + 1)}
        kept = [sample for sample in range(len(lengths)) if sample not in lost]
        if not kept:
            raise UserError(
                f"{self.tokens.files[0]}: no sample fits block_size={block_size}: the shortest "
                f"takes {int(self._lengths().min())} tokens with its images (data.images.mode)"
            )
        images = np.bincount(self.homes, minlength=len(lengths))
        most = self.how.most or len(self.places) + 1
        found: list[list[int]] = []
        size = shown = 0
        for sample in kept:
            size, shown = size + int(lengths[sample]), shown + int(images[sample])
            alone = self.how.rows == "alone" or not found
            if alone or size > block_size + 1 or shown > most:
                found.append([])
                size, shown = int(lengths[sample]), int(images[sample])
            found[-1].append(sample)
        samples = [np.array(one, np.int64) for one in found]
        return Bins(samples, len(long) - len(lost), len(lost))

    def _worth(self, sample: int, length: int) -> bool:
        """Whether its beginning holds all its images, and something that is learnt."""
        row = self._sample(sample)
        return bool((row.slots[length:] < 0).all() and row.learnt[:length].any())


def text(inputs: Tensor, targets: Tensor, ends: int | None) -> Seen:
    """Rows without images; documents are apart behind the token `ends`."""
    import torch

    t = torch.arange(inputs.shape[1])
    positions = t.expand(inputs.shape)
    if ends is not None:
        behind = torch.nn.functional.pad(inputs[:, :-1] == ends, (1, 0))
        positions = t - torch.where(behind, t, 0).cummax(1).values
    none: tuple[tuple[Views, ...], ...] = ((),) * len(inputs)
    return Seen(inputs, targets, positions, torch.full_like(inputs, -1), none)


def joined(parts: Sequence[tuple[Ints, Seen]]) -> Seen:
    """Rows of several sources in one batch, each where its `places` say, as wide as the widest."""
    import torch

    rows = sum(len(places) for places, _ in parts)
    width = max(seen.inputs.shape[1] for _, seen in parts)
    columns = [torch.full((rows, width), -1) for _ in range(4)]
    columns[0].zero_()
    images: list[Sequence[Views]] = [()] * rows
    for places, seen in parts:
        there = torch.from_numpy(places)
        for column, part in zip(columns, seen[:4], strict=True):
            column[there, : part.shape[1]] = part
        for place, row in zip(places.tolist(), seen.images, strict=True):
            images[place] = row
    inputs, targets, positions, slots = columns
    return Seen(inputs, targets, positions, slots, tuple(images))


def _index(shard: Path) -> Path:
    return shard.with_name(f"{shard.stem}.places.bin")
