"""Which corpora a run reads, and how many windows at a time."""

from typing import Literal, Self

from pydantic import Field, model_validator

from espalier.config import Config
from espalier.data.images import mode


class Ingredient(Config):
    """One corpus of a mixture, and its share."""

    corpus: str
    weight: float = Field(default=1.0, ge=0)
    """Its windows go with this over the sum of all weights."""
    final: float | None = Field(default=None, ge=0)
    """The weight after data.transition; as before when left out."""


class ImagesConfig(Config):
    """How a corpus with images is read."""

    mode: str | int | None = None
    """tiny, small, base, large, gundam, or the side of a square in pixels; null: as prepared"""
    rows: Literal["packed", "alone"] = "packed"
    """As many samples to a row as fit, each on its own, or one to a row, as long as it needs."""
    targets: Literal["answers", "published"] = "answers"
    """published: nano-deepseek-ocr's, every next token but those behind a feature of an image."""
    most: int | None = Field(default=None, ge=1)
    """Images in a packed row; a sample with more has a row to itself."""

    @property
    def side(self) -> int:
        """Of the whole image, in pixels; the mode base where the corpus decides."""
        return mode("base" if self.mode is None else self.mode).side


class DataConfig(Config):
    """The data of an experiment."""

    corpus: str | None = None
    """A directory made by `espalier prepare`, or nanoGPT's own with train.bin and val.bin."""
    batch_size: int = Field(default=12, ge=1, le=2**24)
    """Windows in one micro-batch."""
    train_tokens: int | None = Field(default=None, ge=2)
    """Only so many of the training split, from its beginning, over and over; all of validation."""
    mixture: tuple[Ingredient, ...] = ()
    """Corpora of one tokenizer, read together; `corpus` is then one of them, or left out."""
    mixing: Literal["drawn", "even"] = "drawn"
    """Each window's corpus is drawn by weight, or dealt out as evenly as can be."""
    transition: tuple[int, int] | None = None
    """Updates between which weights go in a straight line to their `final`."""

    images: ImagesConfig = ImagesConfig()
    """Of a corpus with images."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mixture:
            places = [one.corpus for one in self.mixture]
            if self.corpus is not None and self.corpus not in places:
                raise ValueError(f"corpus={self.corpus} is not in the mixture; leave it out")
            later = [one.weight if one.final is None else one.final for one in self.mixture]
            if not sum(one.weight for one in self.mixture) or not sum(later):
                raise ValueError("the weights of a mixture cannot all be 0")
        moving = any(one.final is not None for one in self.mixture)
        if moving != (self.transition is not None):
            raise ValueError("transition and a final weight go together; one is missing")
        if self.transition and not 0 <= self.transition[0] < self.transition[1]:
            raise ValueError("transition has a beginning and a later end")
        return self
