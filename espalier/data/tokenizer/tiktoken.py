"""OpenAI's published encodings, by name: from local files, the cache, or the network once."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from espalier.data.download import Retry, cache, fetch
from espalier.data.tokenizer.base import END_OF_TEXT
from espalier.data.tokenizer.ranks import (
    Ranks,
    RankTokenizer,
    read_merges,
    read_ranks,
    read_spec,
)
from espalier.durable import digest
from espalier.errors import UserError

PUBLIC = "https://openaipublic.blob.core.windows.net/"


class Published(NamedTuple):
    """Where an encoding's ranks are, their SHA-256, how text is split, and its special tokens."""

    path: str
    sha256: str
    pattern: str
    special: dict[str, int]


R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FILL = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

ENCODINGS = {
    "gpt2": Published(
        "gpt-2/encodings/main/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        R50K,
        {END_OF_TEXT: 50256},
    ),
    "r50k_base": Published(
        "encodings/r50k_base.tiktoken",
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        R50K,
        {END_OF_TEXT: 50256},
    ),
    "p50k_base": Published(
        "encodings/p50k_base.tiktoken",
        "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
        R50K,
        {END_OF_TEXT: 50256},
    ),
    "cl100k_base": Published(
        "encodings/cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        CL100K,
        {
            END_OF_TEXT: 100257,
            **dict(zip(FILL, range(100258, 100261), strict=True)),
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": Published(
        "encodings/o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        O200K,
        {END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
    ),
}


class TiktokenTokenizer(RankTokenizer):
    """A published encoding; `encoding` is its name."""

    def __init__(self, encoding: str, ranks: Ranks, pattern: str, special: dict[str, int]):
        super().__init__(encoding, ranks, pattern, special)
        self.encoding = encoding

    def spec(self) -> dict[str, Any]:
        return {"name": "tiktoken", "encoding": self.encoding} | super().spec()


def from_spec(spec: dict[str, Any]) -> TiktokenTokenizer:
    """The stored tokenizer, its hash checked."""
    return TiktokenTokenizer(spec["encoding"], *read_spec(spec))


def published(
    name: str, vocab: Path | None = None, retry: Retry | None = None
) -> TiktokenTokenizer:
    """The encoding `name`, its vocabulary looked for in `vocab`, then where `places` says.

    Raises UserError for a file that is not the published one, MachineError when it is nowhere.
    """
    entry = ENCODINGS[name]
    text = _locate(name, entry, vocab, retry).read_text(encoding="utf-8")
    ranks = read_merges(text) if entry.path.endswith(".bpe") else read_ranks(text)
    return TiktokenTokenizer(name, ranks, entry.pattern, entry.special)


def places(name: str, entry: Published) -> Iterator[Path]:
    """$ESPALIER_VOCAB and its folders, our cache, tiktoken's cache."""
    file = Path(entry.path).name
    if folder := os.environ.get("ESPALIER_VOCAB"):
        yield from (
            Path(folder) / file,
            Path(folder) / name / file,
            Path(folder) / f"{name}-bpe" / file,
        )
    yield cache() / "vocab" / name / file
    if folder := os.environ.get("TIKTOKEN_CACHE_DIR"):
        yield Path(folder) / hashlib.sha1((PUBLIC + entry.path).encode()).hexdigest()


def _locate(name: str, entry: Published, vocab: Path | None, retry: Retry | None) -> Path:
    file = Path(entry.path).name
    if vocab is not None:
        chosen = vocab / file if vocab.is_dir() else vocab
        if not chosen.is_file():
            raise UserError(f"no {file} in {vocab}: --vocab takes the folder of {name}'s files")
        if digest(chosen) != entry.sha256:
            raise UserError(f"{chosen} is not the published vocabulary of {name} (SHA-256 differs)")
        return chosen
    for place in places(name, entry):
        if place.is_file() and digest(place) == entry.sha256:
            return place
    way_out = (
        f"Offline: get {file} once on another machine and pass its folder with --vocab DIR, "
        "or set ESPALIER_VOCAB to it."
    )
    url, kept = PUBLIC + entry.path, f"vocab/{name}/{file}"
    return fetch(url, kept, entry.sha256, way_out, retry)
