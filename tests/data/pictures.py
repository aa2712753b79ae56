"""Small images, and corpora of samples with them, for tests."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from espalier.data import illustrated
from espalier.data.corpus import Corpus
from espalier.data.request import Listener, Request
from espalier.data.samples import Fault, Picture, Sample, Turn

Image = pytest.importorskip("PIL.Image")


def spotted(colour: str, width: int = 64, height: int = 64) -> Any:
    """White, with one pixel of a colour: not blank."""
    image = Image.new("RGB", (width, height), "white")
    image.putpixel((width // 2, height // 2), (200, 0, 0) if colour == "red" else (0, 0, 200))
    if colour not in ("red", "blue"):
        image.putpixel((0, 0), tuple(colour.encode("ascii")[:3].ljust(3)))
    return image


def png(colour: str, width: int = 64, height: int = 64) -> bytes:
    file = io.BytesIO()
    spotted(colour, width, height).save(file, "PNG")
    return file.getvalue()


def shown(colour: str, width: int = 64, height: int = 64) -> Picture:
    return Picture(png(colour, width, height), colour)


def sample(name: str, asked: Sequence[str | Picture], answer: str, **more: Any) -> Sample:
    return Sample(name, (Turn("user", tuple(asked)), Turn("assistant", (answer,))), **more)


@dataclass(frozen=True)
class Listed:
    """Samples that a test writes down."""

    found: Sequence[Sample | Fault]

    def identity(self) -> dict[str, Any]:
        return {"kind": "listed", "name": "listed"}

    def read(self) -> Iterator[Sample | Fault]:
        return iter(self.found)


def corpus(
    out: Path,
    found: Sequence[Sample | Fault],
    mode: str | int = 64,
    listener: Listener | None = None,
    **wishes: Any,
) -> Corpus:
    chat = wishes.pop("chat", None)
    request = Request(source="listed", out=out, **wishes)
    return illustrated.prepare(request, Listed(found), listener or Listener(), chat, mode)
