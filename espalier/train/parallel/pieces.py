"""Tensors cut over ranks, and the files they are kept in: one a rank, and an index.

A tensor is cut along its first dimension as `torch.chunk` does it: rank r of n holds the r-th
stretch of ceil(rows / n) rows, the last ranks perhaps fewer or none. What is not cut stands in the
file of one rank, a number without a dimension perhaps in several. `model.index.json` names the
files, in order, and the shape of each tensor put together, so that any number of ranks can read
what any other wrote.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from espalier.durable import read_json, sync, write_json
from espalier.errors import UserError

FORMAT = "espalier-pieces-1"


def index_of(file: Path) -> Path:
    """model.index.json, for model.safetensors."""
    return file.with_suffix(".index.json")


def name_of(file: Path, rank: int, count: int) -> str:
    """model-00001-of-00002.safetensors, the first rank's."""
    return f"{file.stem}-{rank + 1:05d}-of-{count:05d}{file.suffix}"


def stretch(rows: int, rank: int, count: int) -> slice:
    """The rows that a rank holds of a tensor that has `rows`."""
    size = -(-rows // count)
    return slice(min(rank * size, rows), min((rank + 1) * size, rows))


def own(whole: Tensor, rank: int, count: int) -> Tensor:
    """A copy of the rows that a rank holds; a number without a dimension is everybody's."""
    return whole if whole.ndim == 0 else whole[stretch(len(whole), rank, count)].clone()


def write_index(file: Path, count: int) -> None:
    """Say what the files of `count` ranks, all written, hold together."""
    names = [name_of(file, rank, count) for rank in range(count)]
    shapes: dict[str, list[int]] = {}
    for name in names:
        with safe_open(file.with_name(name), "pt") as held:
            for key in held.keys():  # noqa: SIM118 - it is no mapping
                shape = held.get_slice(key).get_shape()
                if key not in shapes:
                    shapes[key] = list(shape)
                elif shape:
                    shapes[key][0] += shape[0]
        sync(file.with_name(name))
    write_json(index_of(file), {"format": FORMAT, "files": names, "tensors": shapes})


def read_index(file: Path) -> list[Path]:
    """The files that together stand for `file`."""
    found = read_json(index_of(file))
    try:
        if found["format"] != FORMAT:
            raise UserError(f"{index_of(file)} is of the format {found['format']!r}, not {FORMAT}")
        return [file.with_name(name) for name in found["files"]]
    except (KeyError, TypeError):
        raise UserError(f"{index_of(file)} is damaged") from None


class Stored(Mapping[str, Tensor]):
    """Whole tensors of open files that together hold them, each read when it is asked for."""

    def __init__(self, files: Sequence[Any]):
        self._at: dict[str, list[Any]] = {}
        for held in files:
            for key in held.keys():  # noqa: SIM118
                self._at.setdefault(key, []).append(held)

    def __getitem__(self, name: str) -> Tensor:
        pieces = [held.get_tensor(name) for held in self._at[name]]
        return pieces[0] if len(pieces) == 1 or not pieces[0].ndim else torch.cat(pieces)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Stored]:
    """The tensors of a safetensors file, whole or in pieces; UserError where one is none."""
    files = [file] if file.is_file() else read_index(file)
    with contextlib.ExitStack() as stack:
        try:
            yield Stored([stack.enter_context(safe_open(one, "pt")) for one in files])
        except FileNotFoundError as error:
            raise UserError(f"no file {error.filename or files[0]}") from None
        except SafetensorError as error:
            raise UserError(f"{file} is damaged: {error}") from None
