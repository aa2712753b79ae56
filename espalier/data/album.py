"""The images of a corpus: a table of them, the files, and their pixels, decoded ahead.

A file is kept as it came and named by its SHA-256, so that equal images are one. `images.jsonl` has
a line for each: file, width and height (upright), bytes. An image's number is its line.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from espalier.data.images import Mode, Views, normal, read, squares, vision_tokens
from espalier.durable import digest
from espalier.errors import UserError

FOLDER, TABLE = "images", "images.jsonl"
ROOM = 1 << 29  # bytes of decoded images that are kept
THREADS = 4
LOOK = 2 * THREADS  # images that are begun ahead of one that is looked at


class Entry(NamedTuple):
    """A line of the table."""

    file: str
    """below the folder of images: the first two digits of its SHA-256, then all of it"""
    width: int
    height: int
    bytes: int


class Album:
    """Images by their numbers. UserError for a table that is damaged, or that names no file."""

    def __init__(self, corpus: Path):
        self.folder = corpus / FOLDER
        self.entries = _entries(corpus / TABLE)
        self._check()
        self._kept: OrderedDict[tuple[int, Mode], Future[Views]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.entries)

    def file(self, number: int) -> Path:
        return self.folder / self.entries[number].file

    def counts(self, how: Mode) -> NDArray[np.int64]:
        """Features of each image."""
        found = [vision_tokens(how, one.width, one.height) for one in self.entries]
        return np.array(found, np.int64)

    def views(self, number: int, how: Mode) -> Views:
        """An image in [-1, 1]. UserError where its file is gone, or has become another."""
        return normal(self._asked(number, how).result())

    def ahead(self, numbers: Iterable[int], how: Mode) -> None:
        """Begin to decode what will be asked for; what goes wrong is told when it is."""
        for number in numbers:
            self._asked(number, how)

    def verify(self) -> None:
        """Read every file and compare its SHA-256; UserError names the first that differs."""
        for number, entry in enumerate(self.entries):
            if digest(self.file(number)) != Path(entry.file).stem:
                raise UserError(f"{self.file(number)} has changed since it was prepared")

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "images")

    def _asked(self, number: int, how: Mode) -> Future[Views]:
        key = number, how
        if key not in self._kept:
            self._kept[key] = self._pool.submit(self._squares, number, how)
            largest = 3 * (how.side**2 + 6 * how.tile**2)
            while len(self._kept) > max(1, ROOM // largest):
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _squares(self, number: int, how: Mode) -> Views:
        image, entry = read(self.file(number)), self.entries[number]
        if image.size != (entry.width, entry.height):
            raise UserError(f"{self.file(number)} has changed since it was prepared")
        return squares(image, how)

    def _check(self) -> None:
        """Ask each folder once, not the disk for each file."""
        places = {Path(entry.file).parent for entry in self.entries}
        there = {
            f"{place.as_posix()}/{name}"
            for place in places
            if (self.folder / place).is_dir()
            for name in os.listdir(self.folder / place)
        }
        gone = [entry.file for entry in self.entries if entry.file not in there]
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            raise UserError(f"{self.folder / gone[0]}{more} is missing: prepare the corpus again")


class Strip(Sequence[Views]):
    """The images of a row, decoded when they are looked at, and those that follow meanwhile."""

    def __init__(self, album: Album, how: Mode, numbers: Sequence[int], following: Sequence[int]):
        self.album, self.how = album, how
        self.numbers, self.following = tuple(numbers), tuple(following)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Views]:
        self.album.ahead((*self.numbers, *self.following), self.how)
        return (self.album.views(number, self.how) for number in self.numbers)

    @overload
    def __getitem__(self, at: int) -> Views: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Views]: ...
    def __getitem__(self, at: int | slice) -> Views | Sequence[Views]:
        if isinstance(at, slice):
            return Strip(self.album, self.how, self.numbers[at], self.following)
        return self.album.views(self.numbers[at], self.how)


def _entries(table: Path) -> list[Entry]:
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
        return [Entry(**json.loads(line)) for line in lines]
    except OSError as error:
        raise UserError(f"cannot read {table}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{table} is damaged: {error}") from None
