"""One id per byte of UTF-8: any text, no training, 256 ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from espalier.data.tokenizer.base import END_OF_TEXT, Ids, checked, scrub, split_at
from espalier.errors import UserError


class ByteTokenizer:
    """Ids 0 to 255; `eot`, where there is one, is 256."""

    def __init__(self, eot: int | None = None):
        if eot not in (None, 256):
            raise UserError(f"end of text must be id 256, after the bytes; got {eot}")
        self.eot = eot
        self.vocab_size = 256 + (eot is not None)

    def encode(self, text: str) -> Ids:
        return np.frombuffer(scrub(text).encode("utf-8"), np.uint8).astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encoded = [scrub(text).encode("utf-8") for text in texts]
        ids = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int64)
        return split_at(ids, [len(item) for item in encoded])

    def decode(self, ids: Sequence[int] | Ids) -> str:
        found = checked(ids, self.vocab_size)
        ends = np.flatnonzero(found == 256)
        texts = [part[part < 256].astype(np.uint8).tobytes() for part in np.split(found, ends)]
        return END_OF_TEXT.join(text.decode("utf-8", "replace") for text in texts)

    def spec(self) -> dict[str, Any]:
        return {"name": "byte", "eot": self.eot}


def from_spec(spec: dict[str, Any]) -> ByteTokenizer:
    """The stored tokenizer."""
    return ByteTokenizer(spec["eot"])
