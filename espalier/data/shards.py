"""The shards of a corpus while it is made: a `.partial` directory that survives a kill.

The state file says how long every file is and where the source goes on; whatever lies behind those
lengths was written after it and is cut off before the work is taken up again.
"""

import json
import os
import shutil
import uuid
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from espalier import durable, lock
from espalier.data.blocks import Block, Counts, Encoded
from espalier.data.corpus import META
from espalier.errors import MachineError, UserError

STATE = "state.json"
KEYS = "keys.u64"
LOCK = "lock"


@dataclass
class State:
    """Everything that going on needs: written whole, or not at all."""

    settings: dict[str, Any]
    threshold: int
    shards: list[Counts]
    cursor: dict[str, Any] | None = None
    tally: dict[str, int] = field(default_factory=dict)
    keys: int = 0

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)


class ShardWriter:
    """Appends encoded blocks to the shards in `folder`; `commit` makes them last."""

    def __init__(self, folder: Path, names: Sequence[str], itemsize: int, state: State):
        self.folder = folder
        self.state = state
        self._shards = [
            _opened(folder / name, counts.tokens * itemsize)
            for name, counts in zip(names, state.shards, strict=True)
        ]
        self._keys = _opened(folder / KEYS, state.keys * 8)

    def add(self, block: Block, encoded: Encoded) -> None:
        """Append a block: its ids, its counts, and the hashes of the documents it begins."""
        keys = np.array([part.key for part in block.parts if part.last], "<u8")
        try:
            for shard, ids in encoded.ids.items():
                self._shards[shard].write(ids.data)
                self.state.shards[shard].add(encoded.counts[shard])
            self._keys.write(keys.data)
        except OSError as error:
            raise MachineError(f"cannot write to {self.folder}: {error.strerror}") from None
        self.state.keys += len(keys)

    def commit(self, cursor: dict[str, Any], tally: dict[str, int]) -> None:
        """From now on a kill loses nothing of what was added before."""
        self.state.cursor, self.state.tally = cursor, tally
        self.sync()
        write_json(self.folder / STATE, asdict(self.state))

    def sync(self) -> None:
        try:
            for stream in (*self._shards, self._keys):
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise MachineError(f"cannot write to {self.folder}: {error.strerror}") from None

    def close(self) -> None:
        for stream in (*self._shards, self._keys):
            stream.close()


def read_state(folder: Path) -> State | None:
    """The state of an interrupted preparation; None when there is none to go on from."""
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        found["shards"] = [Counts(**shard) for shard in found["shards"]]
        return State(**found)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def document_keys(folder: Path) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The hashes of all documents, memory-mapped."""
    file = folder / KEYS
    if file.stat().st_size == 0:
        return np.empty(0, "<u8")
    return np.memmap(file, "<u8", mode="r")


def duplicates(folder: Path, most: int = 1 << 25) -> int:
    """How many documents equal an earlier one, looking at `most` hashes at a time."""
    keys = document_keys(folder)
    slots = max(1, -(-len(keys) // most))
    width = -(-(2**64) // slots)
    distinct = 0
    for slot in range(slots):
        low, high = slot * width, min((slot + 1) * width, 2**64) - 1
        chunks = [_between(keys[i : i + most], low, high) for i in range(0, len(keys), most)]
        distinct += len(np.unique(np.concatenate(chunks))) if chunks else 0
    return len(keys) - distinct


def describe(folder: Path, names: Sequence[str], state: State) -> list[dict[str, Any]]:
    """The shards' entries in meta.json, training first, each with its SHA-256."""
    entries = []
    for index in [*range(1, len(names)), 0]:
        name, counts = names[index], asdict(state.shards[index])
        split = "train" if index else "val"
        entries.append(
            {"file": name, "split": split} | counts | {"sha256": durable.digest(folder / name)}
        )
    return entries


def taken(out: Path) -> bool:
    """Is there a corpus at `out`? UserError where something else is, which nothing may replace."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / META).is_file():
        raise UserError(f"{out} exists and is no corpus of espalier's: choose another --out")
    return True


def publish(partial: Path, out: Path) -> None:
    """Put the finished directory in its place; an older corpus there is removed afterwards."""
    former = out.with_name(f"{out.name}.was-{uuid.uuid4().hex[:8]}")
    try:
        if out.exists():
            out.rename(former)
        partial.rename(out)
        durable.sync(out.parent)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"cannot put {partial} in place of {out}: {error.strerror}") from None


def alone(partial: Path) -> AbstractContextManager[None]:
    """Nobody else prepares the same corpus; UserError when somebody does."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot write {partial}: {error.strerror}") from None
    return lock.hold(partial / LOCK)


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove what is in `folder`, but for `keep`."""
    for file in folder.iterdir():
        if file.name in (*keep, LOCK):
            continue
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


def write_json(file: Path, tree: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    try:
        durable.write_json(file, tree)
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror}") from None


def _opened(file: Path, size: int) -> BinaryIO:
    """A file for appending, cut to the length it had at the last commit."""
    try:
        stream = file.open("ab")
        stream.truncate(size)
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror}") from None
    return stream


def _between(
    keys: np.ndarray[Any, np.dtype[np.uint64]], low: int, high: int
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))]
