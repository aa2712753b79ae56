"""How a model is evaluated."""

from typing import Literal

from pydantic import Field

from espalier.config import Config


class EvaluateConfig(Config):
    """Validation over fixed windows that do not overlap; the same number at any batch size."""

    eval_iters: int | None = Field(default=None, ge=1)
    """at most this many windows, evenly spread over the split; all of them when left out"""
    first: bool = True
    """before the first update too"""
    dtype: Literal["float32", "train"] = "float32"
    """of the forward pass; train: as in training, faster where that is 16-bit"""
    against: str | None = None
    """a recipe whose counts `check` sets beside this one's"""
