"""Samples with images into a corpus: each image looked at and kept, each sample spelled.

Read once: images go to their folder and samples to a list, which is then split and written as
conversations are (`espalier.data.conversations`); `SPLIT.places.bin` says, in pairs of int64,
before which token of the split which image stands. What cannot be used is left out and told.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from espalier import durable
from espalier.data import shards
from espalier.data.album import FOLDER, TABLE, THREADS, Entry
from espalier.data.chat import ANSWERS, Speaker, Template, named, widened
from espalier.data.conversations import Shard, closed, description
from espalier.data.corpus import META, Corpus
from espalier.data.images import content, decoded, mode, unfit
from espalier.data.request import BPE_SIZE, Listener, Request
from espalier.data.samples import (
    Fault,
    Picture,
    Sample,
    Samples,
    lines,
    rows_file,
    spoken,
)
from espalier.data.split import TOP
from espalier.data.tokenizer import TRAINED, Tokenizer, choose, train
from espalier.data.tokenizer.base import scrub
from espalier.data.tokens import token_dtype
from espalier.errors import MachineError, UserError

IMAGE = "<|image|>"  # the id that stands where a feature stands; nothing reads it from a text
CHAT, TOKENIZER, MODE = "nanochat", "byte", "base"
VAL_FRACTION = 0.1
LEFT_OUT = "left-out.jsonl"
NAMED = 10  # of what is left out, told one by one
ROWS = "rows.jsonl"


class _Kept(NamedTuple):
    """An image that can be read."""

    data: bytes
    name: str
    width: int
    height: int


class _Shelf:
    """The folder of images and their table, while they are written."""

    def __init__(self, folder: Path):
        self.folder, self.entries, self.numbers = folder, list[Entry](), dict[str, int]()

    def add(self, image: _Kept) -> int:
        """Its number; the same for the same bytes."""
        if image.name not in self.numbers:
            file = self.folder / FOLDER / image.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image.data)
            self.numbers[image.name] = len(self.entries)
            self.entries.append(Entry(image.name, image.width, image.height, len(image.data)))
        return self.numbers[image.name]

    def close(self, mode: str | int, image_id: int) -> dict[str, Any]:
        """What meta.json says of them."""
        table = self.folder / TABLE
        text = "".join(json.dumps(entry._asdict()) + "\n" for entry in self.entries)
        durable.write_whole(table, text)
        size = sum(entry.bytes for entry in self.entries)
        facts = {"count": len(self.entries), "bytes": size, "sha256": durable.digest(table)}
        return {"mode": mode, "id": image_id, **facts}


def prepare(
    request: Request,
    samples: Samples,
    listener: Listener,
    chat: str | None = None,
    image_mode: str | int | None = None,
) -> Corpus:
    """Make the corpus of `samples` at `request.out`, spelled by the template `chat`.

    `image_mode` is how its images are read where a run does not say. Raises UserError, and leaves
    nothing behind then.
    """
    template, mode_ = named(chat or CHAT), image_mode or MODE
    mode(mode_)
    if shards.taken(request.out) and request.existing == "keep":
        raise UserError(f"{request.out} is there already: --overwrite replaces it")
    partial = request.out.with_name(request.out.name + ".partial")
    with shards.alone(partial):
        shards.clear(partial)
        try:
            _write(request, samples, template, partial, mode_, listener)
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except OSError as error:
            raise MachineError(f"cannot write to {partial}: {error.strerror}") from None
    shards.publish(partial, request.out)
    return Corpus.open(request.out)


def _write(
    request: Request,
    samples: Samples,
    template: Template,
    partial: Path,
    mode_: str | int,
    listener: Listener,
) -> None:
    shelf = _Shelf(partial)
    keys, left_out = _gather(samples, shelf, listener)
    split = _Sides(keys, request.val_fraction or VAL_FRACTION)
    if split.shared:
        listener.note(
            f"{split.shared:,} validation samples begin with an image that training has, too: "
            "their loss tells nothing of images that are new"
        )
    tokenizer = widened(_tokenizer(request, partial, split, template), template, IMAGE)
    speaker = Speaker(template, tokenizer)
    entries = _spell(partial, split, speaker)
    image_id = getattr(tokenizer, "special")[IMAGE]  # noqa: B009
    meta = description(speaker, entries) | {
        "images": shelf.close(mode_, image_id),
        "left_out": left_out,
        "shared": split.shared,
        "source": samples.identity(),
        "split": split.rule(),
    }
    (partial / ROWS).unlink()
    shards.write_json(partial / META, meta)


class _Sides:
    """To which split each sample goes: its own, or as the hash of its first image says."""

    def __init__(self, keys: list[tuple[str | None, int]], fraction: float):
        self.keys, self.fraction = keys, fraction
        free = {key for side, key in keys if side is None}
        fixed = {side for side, _ in keys}
        if not keys or (None in fixed and len(fixed) == 1 and len(free) < 2):
            raise UserError(
                "fewer than two samples with different images are left, so that none can be "
                "held out for validation"
            )
        self.threshold = max(int(fraction * TOP), min(free) + 1) if fixed == {None} else 0

    def side(self, number: int) -> str:
        side, key = self.keys[number]
        return side or ("val" if key < self.threshold else "train")

    @cached_property
    def shared(self) -> int:
        """Samples of validation whose first image, or text, is in training as well."""
        sides = [self.side(number) for number in range(len(self.keys))]
        pairs = list(zip(sides, (key for _, key in self.keys), strict=True))
        seen = {key for side, key in pairs if side == "train"}
        return sum(side == "val" and key in seen for side, key in pairs)

    def rule(self) -> dict[str, Any]:
        if all(side for side, _ in self.keys):
            return {"rule": "given"}
        share = self.threshold / TOP
        return {"rule": "image-hash", "val_fraction": self.fraction, "threshold": share}


def _gather(
    samples: Samples, shelf: _Shelf, listener: Listener
) -> tuple[list[tuple[str | None, int]], int]:
    """Write what can be used to ROWS; each sample's side and key, and how many are left out."""
    keys: list[tuple[str | None, int]] = []
    faults = 0
    folder = shelf.folder
    with (
        _written(folder / ROWS) as rows,
        _written(folder / LEFT_OUT) as out,
    ):
        for sample, found in _examined(samples.read()):
            if isinstance(found, Fault):
                out.write(json.dumps(found._asdict(), ensure_ascii=False) + "\n")
                faults += 1
                if faults <= NAMED:
                    listener.note(f"left out: {found.what}: {found.why}")
                continue
            assert sample is not None
            line = json.dumps(lines(sample, [shelf.add(one) for one in found]), ensure_ascii=False)
            rows.write(line + "\n")
            keys.append((sample.side, _key(sample, found)))
            listener.progress(len(keys), None, "samples")
    if faults > NAMED:
        listener.note(f"left out: {faults:,} in all, listed in {LEFT_OUT}")
    if not faults:
        (folder / LEFT_OUT).unlink()
    return keys, faults


def _written(file: Path) -> TextIO:
    """For JSON, in which half of a surrogate pair becomes the escape that it is there."""
    return file.open("w", encoding="utf-8", errors="backslashreplace")


def _key(sample: Sample, images: list[_Kept]) -> int:
    text = json.dumps([(turn.role, [str(p) for p in turn.parts]) for turn in sample.turns])
    of = images[0].name if images else text
    return int.from_bytes(
        hashlib.sha256(of.encode("utf-8", "surrogatepass")).digest()[:8], "little"
    )


def _examined(
    found: Iterator[Sample | Fault],
) -> Iterator[tuple[Sample | None, list[_Kept] | Fault]]:
    """Each sample with its images, which several threads look at; the order stays."""
    waiting: deque[tuple[Sample | None, Future[list[_Kept] | Fault]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for one in found:
            sample = one if isinstance(one, Sample) else None
            waiting.append((sample, pool.submit(_examine, one)))
            while len(waiting) > 4 * THREADS:
                sample, future = waiting.popleft()
                yield sample, future.result()
        for sample, future in waiting:
            yield sample, future.result()


def _examine(one: Sample | Fault) -> list[_Kept] | Fault:
    if isinstance(one, Fault):
        return one
    texts = [(t.role, part) for t in one.turns for part in t.parts if isinstance(part, str)]
    if not any(role == ANSWERS and text.strip() for role, text in texts):
        return Fault(one.id, "the answer is empty: there is nothing to learn")
    if any(scrub(text) != text for _, text in texts):
        return Fault(one.id, "half of a surrogate pair, which no UTF-8 can carry")
    try:
        return [_looked_at(picture) for picture in one.pictures]
    except UserError as error:
        return Fault(one.id, str(error))


def _looked_at(picture: Picture) -> _Kept:
    """UserError that says why an image cannot be used."""
    given = picture.source
    return _sound(given if isinstance(given, bytes) else content(given, picture.name), picture.name)


@lru_cache(maxsize=16)  # several questions about an image follow one another
def _sound(data: bytes, name: str) -> _Kept:
    image, kind = decoded(data, name)
    if (why := unfit(image)) is not None:
        raise UserError(f"{name} {why}")
    sha = hashlib.sha256(data).hexdigest()
    suffix = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
    return _Kept(data, f"{sha[:2]}/{sha}.{suffix}", image.width, image.height)


def _tokenizer(request: Request, partial: Path, split: _Sides, template: Template) -> Tokenizer:
    name = request.tokenizer or TOKENIZER
    if name not in TRAINED:
        return choose(name, request.vocab)
    sides = ("train", "val") if name == "char" else ("train",)

    def texts() -> Iterator[str]:
        for role in ("system", "user", ANSWERS):
            yield template.begin + template.filled(template.before + template.after, role)
        for number, line in enumerate(_rows(partial)):
            for message in spoken(line) if split.side(number) in sides else ():
                parts = (message.content,) if isinstance(message.content, str) else message.content
                yield from (part for part in parts if isinstance(part, str))

    return train(name, texts(), request.vocab_size or BPE_SIZE)


def _rows(partial: Path) -> Iterator[dict[str, Any]]:
    with (partial / ROWS).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _spell(partial: Path, split: _Sides, speaker: Speaker) -> list[dict[str, Any]]:
    """Write both splits; their entries in meta.json."""
    dtype = token_dtype(speaker.tokenizer.vocab_size)
    names = ("train", "val")
    opened = {name: Shard.open(partial, name) for name in names}
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    rows = {name: _written(partial / rows_file(name)) for name in names}
    for number, line in enumerate(_rows(partial)):
        side = split.side(number)
        ids, learnt, before, images = speaker.conversation(spoken(line))
        first = opened[side].count
        places[side] += [(first + at, image) for at, image in zip(before, images, strict=True)]
        opened[side].add(ids, learnt, dtype)
        rows[side].write(json.dumps(line, ensure_ascii=False) + "\n")
    entries = []
    for name in names:
        rows[name].close()
        file = partial / f"{name}.places.bin"
        np.array(places[name], "<i8").reshape(-1, 2).tofile(file)
        beside = {"places": file.name, "places_sha256": durable.digest(file)}
        beside |= {
            "rows": rows_file(name),
            "rows_sha256": durable.digest(partial / rows_file(name)),
        }
        entries.append(closed(opened[name], name, partial) | beside)
    return entries
