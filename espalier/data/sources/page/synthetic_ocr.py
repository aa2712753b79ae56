"""Receipts, charts, pages and lines that are drawn here, with their text, boxes and questions."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from espalier.data.samples import Fault, Picture, Sample
from espalier.data.sources.pictured import PageConfig, answered
from espalier.errors import UserError, need

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Kind = Literal["receipt", "chart", "page", "lines"]
PROMPT = "Free OCR."
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
LEAST = 20  # held-out words
LARGEST = 1280  # side of a square that is read whole
SHAPES = {"receipt": (0.6, 1.0), "chart": (1.0, 0.75), "page": (0.75, 1.0), "lines": (1.0, 1.0)}


class SyntheticOcrConfig(PageConfig):
    """Words are made of syllables; those of validation are never seen in training.

    `lines` have a word and a number each, a receipt goods with prices and their total, a chart bars
    with their values, a page a title and text. Each is transcribed, and asked about. Drawn with
    Pillow's own font; image i depends on nothing but the seed, the settings and its split.
    """

    samples: int = Field(default=1000, ge=2)
    """Images; the validation share of them is held out."""
    kinds: tuple[Kind, ...] = ("receipt", "chart", "page")
    """One after the other, as in kinds=receipt,page."""
    side: int = Field(default=512, ge=32, le=4096)
    """The longer, in pixels."""
    lines: int = Field(default=6, ge=1, le=40)
    """Goods, bars or lines of text."""
    words: int = Field(default=2000, ge=40, le=20_000)
    """How many there are, the held-out ones among them."""
    questions: int = Field(default=1, ge=0, le=4)
    """To each image, beside the transcription; each is a sample of its own."""
    seed: int = 0

    @field_validator("kinds", mode="before")
    @classmethod
    def _listed(cls, kinds: Any) -> Any:
        return tuple(kinds.split(",")) if isinstance(kinds, str) else kinds

    def most(self) -> int | None:
        return None  # samples are images here

    def mode(self) -> str | int:
        square = -(-self.side // 64) * 64
        return square if square <= LARGEST else "gundam"

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        held = max(1, round(self.samples * val_fraction))
        if held >= self.samples:
            raise UserError(f"{self.samples} samples are too few for --val-fraction {val_fraction}")
        words = vocabulary(self.seed, self.words)
        unseen = max(LEAST, round(len(words) * val_fraction))
        for number in range(self.samples):
            late = number >= self.samples - held
            known = words[-unseen:] if late else words[:-unseen]
            yield from self._samples(number, known, "val" if late else "train")

    def _samples(
        self, number: int, words: list[str], side: Literal["train", "val"]
    ) -> Iterator[Sample]:
        chance = random.Random(f"{self.seed}/{number}")
        kind = self.kinds[number % len(self.kinds)]
        width, height = (round(part * self.side) for part in SHAPES[kind])
        drawn = DRAW[kind](Sheet(width, height, chance), chance, words, self.lines)
        name = f"{kind}-{number:05d}"
        shown = Picture(drawn.sheet.png(), name)
        facts = {"kind": kind, "boxes": drawn.sheet.boxes}
        yield Sample(name, answered(PROMPT, [shown], drawn.text), side, facts)
        asked = chance.sample(drawn.questions, min(self.questions, len(drawn.questions)))
        for i, (question, answer) in enumerate(asked, 1):
            turns = answered(question, [shown], answer)
            yield Sample(f"{name}-q{i}", turns, side, facts | {"question": question})


def vocabulary(seed: int, count: int) -> list[str]:
    """Distinct words of two or three syllables, in a random order."""
    chance = random.Random(f"{seed}/words")
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = range(chance.choice((2, 2, 3)))
        word = "".join(chance.choice(CONSONANTS) + chance.choice(VOWELS) for _ in syllables)
        found[word + chance.choice(("", "", "n", "s", "t"))] = None
    return list(found)


class Sheet:
    """A white image that remembers what is written where."""

    def __init__(self, width: int, height: int, chance: random.Random):
        paper, ink = chance.randint(235, 255), chance.randint(0, 60)
        self.image = need("PIL.Image", "vision").new("RGB", (width, height), (paper,) * 3)
        self.draw: ImageDraw = need("PIL.ImageDraw", "vision").Draw(self.image)
        self.width, self.height, self.ink = width, height, (ink,) * 3
        self.margin = max(2, width // 20)
        self.boxes: list[list[str | float]] = []

    def write(self, text: str, x: float, y: float, size: int) -> None:
        """Its left upper corner at (x, y)."""
        letters = font(size)
        self.draw.text((x, y), text, fill=self.ink, font=letters, anchor="la")
        self.boxes.append([text, *self.draw.textbbox((x, y), text, font=letters, anchor="la")])

    def fitting(self, texts: list[str], width: float, rows: float) -> int:
        """The largest size of letters at which each text is so wide, and so many rows so high."""
        most = max(6, int((self.height - 2 * self.margin) / (1.3 * rows)))
        widest = max(font(64).getlength(text) for text in texts) / 64
        return max(6, min(most, int(width / widest)))

    def png(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG", compress_level=2)
        return file.getvalue()


@lru_cache(maxsize=64)
def font(size: int) -> FreeTypeFont:
    found: FreeTypeFont = need("PIL.ImageFont", "vision").load_default(size)
    return found


class Drawn(NamedTuple):
    sheet: Sheet
    text: str
    questions: list[tuple[str, str]]


def lines(sheet: Sheet, chance: random.Random, words: list[str], count: int) -> Drawn:
    """A word and a number in each line."""
    said = [(word, str(chance.randint(10, 99))) for word in chance.sample(words, count)]
    rows = [f"{word} {number}" for word, number in said]
    size = sheet.fitting(rows, sheet.width - 2 * sheet.margin, count)
    step = (sheet.height - 2 * sheet.margin) / count
    for i, row in enumerate(rows):
        sheet.write(row, sheet.margin, sheet.margin + i * step, size)
    asked = [(f"Which number follows {word}?", number) for word, number in said]
    return Drawn(sheet, "\n".join(rows), asked)


def receipt(sheet: Sheet, chance: random.Random, words: list[str], count: int) -> Drawn:
    """A shop, goods with their prices, and the total."""
    shop, *goods = chance.sample(words, count + 1)
    cents = [chance.randint(50, 9999) for _ in goods]
    priced = [(one, _price(price)) for one, price in zip(goods, cents, strict=True)]
    total = _price(sum(cents))
    rows = [*priced, ("TOTAL", total)]
    width = sheet.width - 2 * sheet.margin
    size = sheet.fitting([f"{left}  {right}" for left, right in rows], width, len(rows) + 1.5)
    sheet.write(shop.upper(), sheet.margin, sheet.margin, size)
    step = (sheet.height - 2 * sheet.margin) / (len(rows) + 1.5)
    for i, (left, right) in enumerate(rows, 1):
        y = sheet.margin + (i + 0.5 * (left == "TOTAL")) * step
        sheet.write(left, sheet.margin, y, size)
        sheet.write(right, sheet.width - sheet.margin - font(size).getlength(right), y, size)
    rule = int(sheet.margin + len(rows) * step + 0.2 * step)
    sheet.draw.line((sheet.margin, rule, sheet.width - sheet.margin, rule), sheet.ink)
    text = "\n".join([shop.upper(), *(f"{left} {right}" for left, right in rows)])
    asked = [(f"What does {one} cost?", price) for one, price in priced]
    return Drawn(sheet, text, [("What is the total?", total), *asked])


def chart(sheet: Sheet, chance: random.Random, words: list[str], count: int) -> Drawn:
    """A title, and bars with their names and values."""
    title, *names = chance.sample(words, count + 1)
    values = chance.sample(range(10, 100), count)
    rows = count + 1.5
    label = 0.4 * (sheet.width - 2 * sheet.margin)
    size = sheet.fitting([title, *names], label, rows)
    sheet.write(title.upper(), sheet.margin, sheet.margin, size)
    step = (sheet.height - 2 * sheet.margin) / rows
    begin, room = sheet.margin + 1.05 * label, 0.45 * (sheet.width - 2 * sheet.margin)
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        y = sheet.margin + (i + 1.5) * step
        end = begin + room * value / 100
        colour = tuple(chance.randint(60, 200) for _ in range(3))
        sheet.draw.rectangle((begin, y, end, y + 0.7 * step), fill=colour)
        sheet.write(name, sheet.margin, y, size)
        sheet.write(str(value), end + 0.3 * size, y, size)
    text = "\n".join([title.upper(), *(f"{n} {v}" for n, v in zip(names, values, strict=True))])
    asked = [(f"What is the value of {n}?", str(v)) for n, v in zip(names, values, strict=True)]
    longest = names[values.index(max(values))]
    return Drawn(sheet, text, [("Which bar is the longest?", longest), *asked])


def page(sheet: Sheet, chance: random.Random, words: list[str], count: int) -> Drawn:
    """A title and text; each line of it is full."""
    title = " ".join(chance.sample(words, 2)).title()
    rows = [" ".join(chance.sample(words, 4)) for _ in range(count)]
    rows = [row.capitalize() if not i % 3 else row for i, row in enumerate(rows)]
    rows = [f"{row}." if i % 3 == 2 or i == count - 1 else row for i, row in enumerate(rows)]
    size = sheet.fitting([title, *rows], sheet.width - 2 * sheet.margin, count + 1.5)
    sheet.write(title, sheet.margin, sheet.margin, size)
    step = (sheet.height - 2 * sheet.margin) / (count + 1.5)
    for i, row in enumerate(rows):
        sheet.write(row, sheet.margin, sheet.margin + (i + 1.5) * step, size)
    first = rows[0].partition(" ")[0]
    asked = [("What is the title?", title), ("Which word begins the text?", first)]
    return Drawn(sheet, "\n".join([title, *rows]), asked)


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


DRAW = {"receipt": receipt, "chart": chart, "page": page, "lines": lines}
