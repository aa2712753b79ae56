"""From what the command line says to a launcher."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.errors import UserError
from espalier.study.book import Book
from espalier.study.launch import Launcher
from espalier.study.launch.local import Local
from espalier.study.launch.queue import Request
from espalier.study.worker import Worker
from espalier.tree import parse_value

HERE = "here"
ABREAST = 256  # tasks of a SLURM array that may run at once, where nobody asks for a number


@dataclass(frozen=True)
class Where:
    """Where trials are to run, and what each of them takes; what is left out is worked out."""

    on: str = HERE
    device: str = "auto"
    workers: int | None = None
    """trials at a time"""
    threads: int | None = None
    """of one trial"""
    slurm: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UserError(f"--{name} must be at least 1, got {number}")
        if self.slurm and self.on != "slurm":
            raise UserError("--slurm belongs to --on slurm")


def settings(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` as SLURM is to be asked for it."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--slurm takes key=value, such as partition=gpu; got {word}")
        found[key] = parse_value(value)
    return found


def book(place: Path, where: Where) -> Book:
    """The study's; on a cluster at one path on every machine, with a lease of this call."""
    return Book(place) if where.on == HERE else Book(place.absolute(), uuid.uuid4().hex)


def launcher(where: Where, book: Book, memory: Mapping[str, int]) -> Launcher:
    """`memory` is what each trial needs, in bytes, by key. Raises UserError, MachineError."""
    if where.on == "ray":
        from espalier.study.launch import ray as on_ray

        connected = on_ray.connect()
        asked = on_ray.request(connected, where.device, where.workers, where.threads, memory)
        return on_ray.OnRay(book, asked)
    if where.on == "slurm":
        from espalier.study.launch.slurm import OnSlurm

        wanted = where.workers or ABREAST, where.threads or 1
        asked = Request(where.device, most=wanted[0], threads=wanted[1], memory=memory)
        return OnSlurm(book, asked, where.slurm)
    return _here(where, book, memory)


def _here(where: Where, book: Book, memory: Mapping[str, int]) -> Local:
    """Workers on the devices of this machine in turn, and the memory that each device has."""
    import torch

    from espalier import device as machine
    from espalier.train.setup import check_device

    number, device = where.workers or 1, check_device(where.device)
    places, room = [device], {device: machine.memory()[1]}
    if device.startswith("cuda"):
        every = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        places = every if device == "cuda" else [device]
        room = {place: torch.cuda.mem_get_info(place)[0] for place in places}
    threads = where.threads or max(1, machine.cores() // number)
    crew = [Worker(i, places[i % len(places)], threads) for i in range(number)]
    return Local(book, crew, needs=memory, room=room)
