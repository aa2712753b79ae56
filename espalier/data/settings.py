"""Which corpus a run reads, and how many windows at a time."""

from pydantic import Field

from espalier.config import Config


class DataConfig(Config):
    """The data of an experiment."""

    corpus: str | None = None
    """A directory made by `espalier prepare`, or nanoGPT's own with train.bin and val.bin."""
    batch_size: int = Field(default=12, ge=1, le=2**24)
    """Windows in one micro-batch."""
