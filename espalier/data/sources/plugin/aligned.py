"""Texts side by side, a token what all say at one place (ReaLLM-Forge's multicontext)."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from espalier.data.sources.plugins import Document, PluginConfig, read_text
from espalier.data.tokenizer.custom import CustomTokenizer
from espalier.errors import UserError

MOST = 1 << 16  # tokens of all streams together


class AlignedConfig(PluginConfig):
    """Character i of every file is one token: a text, and what is told of each of its characters.

    The last part of the texts is for validation. meta.json has under `source` the `sizes` of the
    streams, for `model.embed={name: contexts, sizes: […]}`: a table for each, not for all pairs.
    """

    files = "texts of the same length, a stream each"

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        texts = _read(files)
        cut = len(texts[0]) - round(len(texts[0]) * val_fraction)
        yield Document(_together([text[:cut] for text in texts]), "train")
        yield Document(_together([text[cut:] for text in texts]), "val")

    def vocabulary(self, files: Sequence[Path]) -> CustomTokenizer:
        streams = _symbols(files)
        count = math.prod(map(len, streams))
        if count > MOST:
            sizes = " x ".join(str(len(one)) for one in streams)
            raise UserError(
                f"aligned: {sizes} characters make {count:,} tokens, more than {MOST:,}"
            )
        tokens = {"".join(one): i for i, one in enumerate(itertools.product(*streams))}
        return CustomTokenizer(tokens, eot=count)

    def facts(self, files: Sequence[Path], val_fraction: float) -> dict[str, Any]:
        return {"sizes": [len(one) for one in _symbols(files)]}


def _read(files: Sequence[Path]) -> list[str]:
    texts = [read_text(file) for file in files]
    for file, text in zip(files, texts, strict=True):
        if len(text) != len(texts[0]):
            raise UserError(
                f"{file} has {len(text):,} characters, {files[0]} {len(texts[0]):,}: streams must "
                "be of one length"
            )
    return texts


def _together(texts: Sequence[str]) -> str:
    return "".join(itertools.chain.from_iterable(zip(*texts, strict=True)))


def _symbols(files: Sequence[Path]) -> list[list[str]]:
    return [sorted(set(text)) for text in _read(files)]
