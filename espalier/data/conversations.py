"""Conversations into a corpus: tokens, a mask of what is learnt, and where each begins.

Beside every token shard `x.bin` stand `x.mask.bin`, a byte a token, and `x.starts.bin`, int64. The
files are read twice: once to check them and to choose those for validation, once to write.
"""

import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from espalier import durable
from espalier.config import encode
from espalier.data import shards
from espalier.data.chat import Message, Speaker, Template, messages, widened
from espalier.data.corpus import FORMAT, META, Corpus
from espalier.data.request import Listener, Request
from espalier.data.split import TOP
from espalier.data.tokenizer import choose
from espalier.data.tokens import token_dtype
from espalier.errors import UserError

VAL_FRACTION = 0.05
SPLITS = ("train", "val")


@dataclass
class Shard:
    """The files of one split, while they are written."""

    tokens: BinaryIO
    mask: BinaryIO
    starts: list[int] = field(default_factory=list)
    count: int = 0
    learnt: int = 0
    max_id: int = 0

    @classmethod
    def open(cls, folder: Path, split: str) -> Self:
        return cls((folder / f"{split}.bin").open("wb"), (folder / f"{split}.mask.bin").open("wb"))

    def add(self, ids: Sequence[int], learnt: Sequence[bool], dtype: np.dtype[Any]) -> None:
        self.tokens.write(np.array(ids, dtype).tobytes())
        self.mask.write(np.array(learnt, np.uint8).tobytes())
        self.starts.append(self.count)
        self.count += len(ids)
        self.learnt += sum(learnt)
        self.max_id = max(self.max_id, *ids)


def prepare(request: Request, template: Template, listener: Listener) -> Corpus:
    """Make the corpus of `request.source` and `more`, .jsonl or .jsonl.gz.

    The tokenizer gets the template's special tokens, and an end of text, where it has none. Nothing
    is left at `request.out` by what goes wrong: UserError for what the user must change.
    """
    files = [Path(place) for place in (request.source, *request.more)]
    _check(request, files)
    assert request.tokenizer is not None
    tokenizer = widened(choose(request.tokenizer, request.vocab), template)
    keys = [key for key, _ in _conversations(files, request.bad, listener)]
    if len(set(keys)) < 2:
        raise UserError(f"{files[0]} has fewer than two different conversations to split")
    fraction = request.val_fraction or VAL_FRACTION
    threshold = max(int(fraction * TOP), min(keys) + 1)
    partial = request.out.with_name(request.out.name + ".partial")
    with shards.alone(partial):
        shards.clear(partial)
        speaker = Speaker(template, tokenizer)
        try:
            entries = _write(_conversations(files, request.bad), speaker, threshold, partial)
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        rule = {"rule": "document-hash", "val_fraction": fraction, "threshold": threshold / TOP}
        source = {"kind": "conversations", "name": files[0].name, "sha256": hash_of(files)}
        meta = description(speaker, entries)
        shards.write_json(partial / META, meta | {"source": source, "split": rule})
    shards.publish(partial, request.out)
    return Corpus.open(request.out)


def _check(request: Request, files: Sequence[Path]) -> None:
    for file in files:
        if not file.is_file() or not file.name.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(f"conversations are read from .jsonl or .jsonl.gz; {file} is none")
    if request.tokenizer is None:
        raise UserError("say whose tokens: --tokenizer gpt2, a tokenizer.json, or a corpus")
    if shards.taken(request.out) and request.existing == "keep":
        raise UserError(f"{request.out} is there already: --overwrite replaces it")


def _conversations(
    files: Sequence[Path], bad: str, listener: Listener | None = None
) -> Iterator[tuple[int, list[Message]]]:
    """Each conversation with its 64-bit hash."""
    skipped = 0
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            try:
                found = messages(_record(line, f"{file}, line {number}"), f"{file}, line {number}")
            except UserError:
                if bad == "refuse":
                    raise
                skipped += 1
                continue
            text = json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")
            yield int.from_bytes(hashlib.sha256(text).digest()[:8], "little"), found
    if skipped and listener is not None:
        listener.note(f"{skipped} lines without a usable conversation were left out")


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            for line in stream:
                if line.strip():
                    yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def _record(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def _write(
    found: Iterator[tuple[int, list[Message]]], speaker: Speaker, threshold: int, folder: Path
) -> list[dict[str, Any]]:
    dtype = token_dtype(speaker.tokenizer.vocab_size)
    opened = {split: Shard.open(folder, split) for split in SPLITS}
    for key, conversation in found:
        ids, learnt, *_ = speaker.conversation(conversation)
        opened["val" if key < threshold else "train"].add(ids, learnt, dtype)
    return [closed(shard, split, folder) for split, shard in opened.items()]


def closed(shard: Shard, split: str, folder: Path) -> dict[str, Any]:
    """The entry of meta.json."""
    shard.tokens.close()
    shard.mask.close()
    if not shard.count:
        raise UserError(f"no conversation is left for {split}: give more, or a --val-fraction")
    np.array(shard.starts, "<i8").tofile(folder / f"{split}.starts.bin")
    names = {"file": f"{split}.bin", "mask": f"{split}.mask.bin", "starts": f"{split}.starts.bin"}
    for name in names.values():
        durable.sync(folder / name)
    hashes = {key: durable.digest(folder / name) for key, name in names.items()}
    return {
        **names,
        "split": split,
        "tokens": shard.count,
        "learnt": shard.learnt,
        "documents": len(shard.starts),
        "max_id": shard.max_id,
        "sha256": hashes["file"],
        "mask_sha256": hashes["mask"],
        "starts_sha256": hashes["starts"],
    }


def description(speaker: Speaker, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What meta.json says of conversations; their source and split are still to come."""
    tokenizer = speaker.tokenizer
    return {
        "format": FORMAT,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "eot": speaker.end,
        "tokens": {entry["split"]: entry["tokens"] for entry in entries},
        "documents": {entry["split"]: entry["documents"] for entry in entries},
        "learnt": {entry["split"]: entry["learnt"] for entry in entries},
        "chat": encode(speaker.template),
        "shards": list(entries),
        "tokenizer": tokenizer.spec(),
    }


def hash_of(files: Sequence[Path]) -> str:
    hashes = "\n".join(durable.digest(file) for file in files)
    return hashlib.sha256(hashes.encode("ascii")).hexdigest()
