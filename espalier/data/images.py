"""Image files to the squares of pixels that a front reads, and their tokens among a text's.

The rules are DeepSeek-OCR's (arXiv:2510.18234): an image is one square, and in the mode `gundam` up
to six tiles of it come first, so that small print stays legible. Pillow and torch only.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from espalier.errors import UserError, nearest, need

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 89_478_485  # where Pillow's own warning starts: 256 MiB of RGB
BICUBIC = 3  # Pillow's number of it
GREY = 127  # round the image, where it is no square
TILES = range(2, 7)  # how many an image is cut into
THINNEST = 200  # times as long as wide: 5 pixels of a padded square of 1024
SIGNS = {  # what people give as images, by its first bytes
    b"%PDF": "a PDF; render its pages first",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself (git lfs pull)",
    b"<svg": "SVG; render it first",
    b"<?xml": "XML or SVG; render it first",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}


@dataclass(frozen=True)
class Mode:
    """How an image becomes squares."""

    side: int
    """of the whole image, in pixels"""
    tile: int = 0
    """side of the tiles; 0: none"""
    stretched: bool = False
    """the whole is stretched to a square, not padded to one"""


MODES = {
    "tiny": Mode(512, stretched=True),
    "small": Mode(640, stretched=True),
    "base": Mode(1024),
    "large": Mode(1280),
    "gundam": Mode(1024, tile=640),
}


class Views(NamedTuple):
    """One image for the model, in [-1, 1]."""

    whole: Tensor
    """(3, side, side)"""
    tiles: Tensor | None
    """(rows, columns, 3, side, side)"""


class Grid(NamedTuple):
    """Tiles of an image; columns first, as published."""

    columns: int
    rows: int


class Filled(NamedTuple):
    """A text with images in it."""

    ids: list[int]
    slots: list[int]
    """-1 for a token of the text, else which feature of the batch's images stands there"""


def mode(name: str | int) -> Mode:
    """By its name, or padded to a square of so many pixels a side."""
    if str(name).isdecimal():
        if int(name) % 64 or not int(name):
            raise UserError(f"an image mode of {name} pixels: the side must be a multiple of 64")
        return Mode(int(name))
    if name not in MODES:
        raise UserError(
            f"no image mode '{name}'.{nearest(str(name), MODES)} Known: {', '.join(MODES)}, "
            "or a side in pixels."
        )
    return MODES[str(name)]


def read(source: Path | bytes, where: str = "") -> Image:
    """An image as RGB, upright. UserError that says what it is, where it cannot be read.

    Transparent parts become white; 16 bits become 8. `where` names bytes in messages.
    """
    where = where or (str(source) if isinstance(source, Path) else "the image")
    return decoded(source if isinstance(source, bytes) else content(source, where), where)[0]


def content(file: Path, where: str = "") -> bytes:
    """The bytes of a file; UserError where there are none."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{where or file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a name that no file can have
        raise UserError(f"{where or file} cannot be read: {error}") from None


def decoded(data: bytes, where: str) -> tuple[Image, str]:
    """As `read`, of bytes; and the format that they are in, one of FORMATS or MPO."""
    if not data:
        raise UserError(f"{where} is empty (0 bytes)")
    pillow = need("PIL.Image", "vision")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs: their size is checked below
            opened: Image = pillow.open(io.BytesIO(data), formats=FORMATS)
            return _plain(_checked(opened, where)), str(opened.format)
    except pillow.DecompressionBombError:
        raise UserError(_too_large(where, "more than 178,956,970")) from None
    except pillow.UnidentifiedImageError:
        raise UserError(f"{where} is {_kind(data)}") from None
    except UserError:
        raise
    except Exception as error:  # a broken file breaks Pillow in many ways
        raise UserError(f"{where} is broken: {error}") from None


def unfit(image: Image) -> str | None:
    """Why there is nothing to read in an image, told of it ("is blank"); None where there may be.

    Of an RGB image.
    """
    long, short = max(image.size), min(image.size)
    if long > THINNEST * short:
        return f"is a strip of {image.width} x {image.height} pixels: as a square, nothing is left"
    low, high = zip(*image.getextrema(), strict=True)
    return "is blank: all its pixels are alike" if low == high else None


def _checked(image: Image, where: str) -> Image:
    """Refuse, from its header alone, what would fill the memory or is no single image."""
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.width} x {image.height} ="
        raise UserError(_too_large(where, f"{size} {image.width * image.height:,}"))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's, whose other pictures are its own
        raise UserError(f"{where} holds {frames} frames or pages: give each as a file of its own")
    return image


def _too_large(where: str, pixels: str) -> str:
    return f"{where} is too large: {pixels} pixels, at most {MOST_PIXELS:,} are read"


def _kind(data: bytes) -> str:
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = [what for sign, what in SIGNS.items() if start.startswith(sign.lower())]
    if not known and data[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1"}:
        known = ["HEIC; convert it to JPEG or PNG first"]
    return known[0] if known else f"no image that is read here ({', '.join(FORMATS)})"


def _plain(image: Image) -> Image:
    """RGB, turned as its EXIF tag says."""
    image = need("PIL.ImageOps", "vision").exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are fractions, of which nobody says what is white")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data:
        white: Image = need("PIL.Image", "vision").new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def grid(width: int, height: int, tile: int = 640) -> Grid | None:
    """The 2 to 6 tiles whose grid is nearest in shape to the image; None where it is small.

    Of grids equally near, a larger one wins where the image has over half of its pixels.
    """
    if width <= tile and height <= tile:
        return None
    best, least = Grid(1, 1), math.inf
    for wanted in _grids():
        gap = abs(width / height - wanted.columns / wanted.rows)
        pixels = tile * tile * wanted.columns * wanted.rows
        if gap < least or (gap == least and width * height > 0.5 * pixels):
            best, least = wanted, gap
    return best


def _grids() -> list[Grid]:
    found = [Grid(c, r) for c in range(1, 7) for r in range(1, 7) if c * r in TILES]
    return sorted(found, key=lambda one: one.columns * one.rows)


def views(image: Image, how: Mode) -> Views:
    """The squares of an image."""
    return normal(squares(image, how))


def squares(image: Image, how: Mode) -> Views:
    """The same in bytes, a quarter as large."""
    side = how.side
    whole = image.resize((side, side), BICUBIC) if how.stretched else padded(image, side)
    shape = grid(*image.size, how.tile) if how.tile else None
    return Views(raw(whole), None if shape is None else cut(image, shape, how.tile))


def normal(bytes_: Views) -> Views:
    """What `squares` gave, in [-1, 1]."""
    whole, parts = bytes_
    return Views(whole / 127.5 - 1, None if parts is None else parts / 127.5 - 1)


def padded(image: Image, side: int) -> Image:
    """The image as large as it fits a square, in the middle, grey round it."""
    width, height = (max(1, round(length / max(image.size) * side)) for length in image.size)
    square: Image = need("PIL.Image", "vision").new("RGB", (side, side), (GREY,) * 3)
    at = (round((side - width) * 0.5), round((side - height) * 0.5))
    square.paste(image.resize((width, height), BICUBIC), at)
    return square


def cut(image: Image, shape: Grid, side: int) -> Tensor:
    """The image stretched to the grid and cut up: (rows, columns, 3, side, side) in bytes."""
    large = raw(image.resize((shape.columns * side, shape.rows * side), BICUBIC))
    parts = large.reshape(3, shape.rows, side, shape.columns, side)
    return parts.permute(1, 3, 0, 2, 4).contiguous()


def raw(image: Image) -> Tensor:
    """(3, height, width) in bytes, of an RGB image."""
    import torch

    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def vision_tokens(how: Mode, width: int, height: int) -> int:
    """Features of an image of this size: lines, the newline behind each, and one separator."""
    return count(how.side, grid(width, height, how.tile) if how.tile else None, how.tile)


def count(side: int, shape: Grid | None = None, tile: int = 640) -> int:
    """Features of a whole image of `side` pixels, and of its tiles."""
    line = features(side)
    whole = line * (line + 1) + 1
    if shape is None:
        return whole
    return whole + shape.rows * features(tile) * (shape.columns * features(tile) + 1)


def features(side: int) -> int:
    """Features to a line of a square: one for 4 patches of 16 pixels."""
    return math.ceil(side // 16 / 4)


def placed(
    ids: Sequence[int], places: Sequence[int], counts: Sequence[int], image_id: int
) -> Filled:
    """A row with images in it: image k, of counts[k] features, stands before token places[k].

    `places` do not fall; slots count the features of the row's own images.
    """
    parts: list[int | Sequence[int]] = []
    at = 0
    for place, features_ in zip(places, counts, strict=True):
        parts += [ids[at:place], features_]
        at = place
    return expand([*parts, ids[at:]], image_id)


def expand(parts: Sequence[int | Sequence[int]], image_id: int, first: int = 0) -> Filled:
    """Structured content laid out in a row: lists of tokens, and numbers of features of images.

    Nothing that a text says can be taken for an image. `image_id` stands as token where a feature
    stands; `first` is the number of features that the batch's rows before this one use.
    """
    ids: list[int] = []
    slots: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids += [image_id] * part
            slots += range(first, first + part)
            first += part
        else:
            ids += part
            slots += [-1] * len(part)
    return Filled(ids, slots)
