"""A prepared corpus: train and validation tokens, and what is known about them."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from espalier.data import foreign
from espalier.data.album import TABLE, Album
from espalier.data.answers import Answers
from espalier.data.images import mode
from espalier.data.settings import ImagesConfig
from espalier.data.sights import Sights
from espalier.data.tokenizer.base import Tokenizer
from espalier.data.tokens import Tokens, token_dtype
from espalier.durable import digest
from espalier.errors import UserError

FORMAT = "espalier-corpus-1"
META = "meta.json"
BESIDE = ("mask", "starts", "places", "rows")  # beside the tokens of conversations, and images
SMALL = 1 << 28  # bytes; larger foreign shards are fingerprinted by samples


class Corpus:
    """What `espalier prepare` wrote, or a directory of nanoGPT's; opened with `Corpus.open`.

    `train` and `val` are `Tokens`; `meta` is meta.json (or what stands for it); `digest` identifies
    the tokens; `tokenizer` is loaded when first asked for.
    """

    def __init__(self, path: Path, meta: dict[str, Any]):
        self.path = path
        self.meta = meta
        self.vocab_size: int = meta["vocab_size"]
        self.train = self._split("train")
        self.val = self._split("val")
        self.images = Album(path) if "images" in meta else None
        self.seeing(ImagesConfig())

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a directory and check what is cheap; UserError when it is no usable corpus."""
        folder = Path(path)
        if (folder / META).is_file():
            return cls(folder, _read(folder))
        if (folder / "train.bin").is_file() and (folder / "val.bin").is_file():
            return cls(folder, _adopt(folder))
        if folder.is_dir():
            raise UserError(
                f"{folder} is no corpus: neither {META} nor train.bin and val.bin in it"
            )
        why = "is a file, not a corpus" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {why}. Make one: espalier prepare SOURCE --out {folder}")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote it."""
        return foreign.tokenizer(self.meta, self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shards' own, in order: the same for the same tokens."""
        hashes = [
            shard["sha256"] if "sha256" in shard else _fingerprint(self.path / shard["file"])
            for shard in self.meta["shards"]
        ]
        beside = [f"{name}_sha256" for name in BESIDE]
        hashes += [shard[key] for shard in self.meta["shards"] for key in beside if key in shard]
        if self.images is not None:
            hashes += [self.meta["images"]["sha256"], str(self.meta["images"]["mode"])]
        return hashlib.sha256("\n".join(hashes).encode("ascii")).hexdigest()

    def seeing(self, how: ImagesConfig) -> None:
        """Read images, where there are any, as `how` says."""
        if self.images is None:
            return
        wanted = mode(how.mode or self.meta["images"]["mode"])
        for tokens in (self.train, self.val):
            tokens.sights = Sights(tokens, self.images, wanted, how, self.meta["images"]["id"])
            tokens.ends = self.meta["eot"] if how.rows == "packed" else None

    def verify(self) -> None:
        """Read every file and compare its SHA-256; UserError names the first that differs."""
        for shard in self.meta["shards"]:
            if "sha256" in shard and digest(self.path / shard["file"]) != shard["sha256"]:
                raise UserError(f"{self.path / shard['file']} has changed since it was prepared")
            for name in BESIDE:
                if name in shard and digest(self.path / shard[name]) != shard[f"{name}_sha256"]:
                    raise UserError(f"{self.path / shard[name]} has changed since it was prepared")
        if self.images is not None:
            if digest(self.path / TABLE) != self.meta["images"]["sha256"]:
                raise UserError(f"{self.path / TABLE} has changed since it was prepared")
            self.images.verify()

    def _split(self, name: str) -> Tokens:
        files = [self.path / s["file"] for s in self.meta["shards"] if s["split"] == name]
        found = Tokens(files, token_dtype(self.vocab_size), self.vocab_size)
        if "chat" in self.meta:
            place = self.path / name
            found.answers = Answers(Path(f"{place}.mask.bin"), Path(f"{place}.starts.bin"))
            found.ends = self.meta["eot"]
        return found


def _read(folder: Path) -> dict[str, Any]:
    file = folder / META
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise UserError(f"{file} is {meta['format']!r}, this version reads {FORMAT!r}")
        itemsize = token_dtype(meta["vocab_size"]).itemsize
        for shard in meta["shards"]:
            _check_shard(folder / shard["file"], shard, itemsize, meta["vocab_size"])
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a corpus' description: {error} is missing") from None
    return dict(meta)


def _check_shard(file: Path, shard: dict[str, Any], itemsize: int, vocab_size: int) -> None:
    if not file.is_file():
        raise UserError(f"{file} is missing: prepare the corpus again")
    if file.stat().st_size != shard["tokens"] * itemsize:
        raise UserError(
            f"{file} has {file.stat().st_size} bytes, {shard['tokens'] * itemsize} expected: "
            "it is cut short or of another corpus; prepare it again"
        )
    if shard["max_id"] >= vocab_size:
        raise UserError(f"{file}: token id {shard['max_id']} is outside {vocab_size}")


def _adopt(folder: Path) -> dict[str, Any]:
    """A nanoGPT directory's description, its tokens looked at."""
    meta = foreign.describe(folder)
    dtype = token_dtype(meta["vocab_size"])
    meta["dtype"] = dtype.name
    meta["shards"] = []
    for split in ("train", "val"):
        file = folder / f"{split}.bin"
        size = file.stat().st_size
        if size == 0 or size % dtype.itemsize:
            raise UserError(f"{file} has {size} bytes: no sequence of {dtype.name} tokens")
        Tokens([file], dtype, meta["vocab_size"]).check()
        meta["shards"].append({"file": file.name, "split": split, "tokens": size // dtype.itemsize})
    return meta


def _fingerprint(file: Path) -> str:
    """SHA-256 of a file: of all of it when small, else of its size and 256 spaced blocks."""
    size = file.stat().st_size
    if size <= SMALL:
        return digest(file)
    found = hashlib.sha256(str(size).encode("ascii"))
    with file.open("rb") as stream:
        for i in range(256):
            stream.seek(i * (size - (1 << 16)) // 255)
            found.update(stream.read(1 << 16))
    return found.hexdigest()
