"""Pieces in blocks, and blocks into token ids: here, or in several processes, always in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from espalier.data.pieces import Mark, Piece
from espalier.data.split import Split
from espalier.data.tokenizer import Tokenizer, fallback, load
from espalier.data.tokens import token_dtype
from espalier.errors import MachineError

BLOCK = 1 << 22  # characters


class Part(NamedTuple):
    """One piece of a block: its text, the shard it goes to, its document's hash."""

    text: str
    shard: int
    key: int
    last: bool


@dataclass
class Block:
    """Pieces that are encoded together; `mark` is where reading goes on after them."""

    parts: list[Part] = field(default_factory=list)
    mark: Mark | None = None


@dataclass
class Counts:
    """What one shard got."""

    tokens: int = 0
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    max_id: int = 0
    fallback: int = 0
    """Ids that stand for single bytes because no token fits."""

    def add(self, other: "Counts") -> None:
        self.tokens += other.tokens
        self.documents += other.documents
        self.characters += other.characters
        self.bytes += other.bytes
        self.max_id = max(self.max_id, other.max_id)
        self.fallback += other.fallback


class Encoded(NamedTuple):
    """A block's ids by shard, in the corpus' dtype, and the tokens of each of its parts."""

    ids: dict[int, NDArray[np.unsignedinteger]]
    counts: dict[int, Counts]
    lengths: list[int]


def blocks(pieces: Iterable[Piece], split: Split) -> Iterator[Block]:
    """Blocks of about BLOCK characters, each ending where reading can be taken up again."""
    block, size = Block(), 0
    for piece in pieces:
        block.parts.append(Part(piece.text, split.place(piece), piece.key, piece.last))
        size += len(piece.text)
        if piece.mark is not None and size >= BLOCK:
            block.mark = piece.mark
            yield block
            block, size = Block(), 0
    if block.parts:
        yield block


def encode(tokenizer: Tokenizer, parts: Sequence[Part], end_id: int | None) -> Encoded:
    """Ids of the parts by shard, `end_id` (unless None) behind each document."""
    dtype = token_dtype(tokenizer.vocab_size)
    end = [] if end_id is None else [np.array([end_id], dtype)]
    found: dict[int, list[NDArray[np.unsignedinteger]]] = {}
    counts: dict[int, Counts] = {}
    lengths: list[int] = []
    for part, ids in zip(parts, tokenizer.encode_batch([p.text for p in parts]), strict=True):
        closing = end if part.last else []
        found.setdefault(part.shard, []).extend([ids.astype(dtype), *closing])
        lengths.append(len(ids) + len(closing))
        size = len(part.text) if part.text.isascii() else len(part.text.encode("utf-8"))
        count = counts.setdefault(part.shard, Counts())
        count.add(Counts(lengths[-1], int(part.last), len(part.text), size))
    joined = {shard: np.concatenate(items) for shard, items in found.items()}
    single = fallback(tokenizer)
    for shard, all_ids in joined.items():
        counts[shard].fallback = 0 if single is None else int(single[all_ids].sum())
        counts[shard].max_id = int(all_ids.max()) if len(all_ids) else 0
    return Encoded(joined, counts, lengths)


class Encoder(Protocol):
    def __call__(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, Encoded]]:
        """Each block with its ids, in order."""
        ...


@contextmanager
def encoder(tokenizer: Tokenizer, end_id: int | None, processes: int) -> Iterator[Encoder]:
    """Encodes in this process, or in `processes` others while this one reads and writes."""
    if processes == 1:
        yield lambda found: ((block, encode(tokenizer, block.parts, end_id)) for block in found)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start, (tokenizer.spec(), end_id))
    try:
        yield lambda found: _ahead(pool, found, 2 * processes)
    except BrokenProcessPool:
        raise MachineError(
            "an encoding process ended early (out of memory?): run the same command again to go "
            "on, perhaps with fewer --processes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ProcessPoolExecutor, found: Iterable[Block], most: int
) -> Iterator[tuple[Block, Encoded]]:
    """At most `most` blocks are in memory beyond the one given out."""
    waiting: deque[tuple[Block, Future[Encoded]]] = deque()
    for block in found:
        waiting.append((block, pool.submit(_encode, block.parts)))
        if len(waiting) > most:
            done, future = waiting.popleft()
            yield done, future.result()
    while waiting:
        done, future = waiting.popleft()
        yield done, future.result()


_mine: tuple[Tokenizer, int | None] | None = None


def _start(spec: dict[str, Any], end_id: int | None) -> None:
    """A worker loads its tokenizer once, and ends when the process that started it is gone."""
    global _mine
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _mine = load(spec), end_id
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the starter's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _encode(parts: list[Part]) -> Encoded:
    assert _mine is not None
    return encode(_mine[0], parts, _mine[1])
