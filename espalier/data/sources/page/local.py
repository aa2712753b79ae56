"""Samples of one's own: JSON with prompts, answers and images, as nano-deepseek-ocr has them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from espalier.data.samples import Fault, Sample, Split
from espalier.data.sources.pictured import PageConfig, described
from espalier.errors import UserError

NAMES = ("train.json", "overfit_dataset.json")
TRAIN, VAL = NAMES[0], "val.json"


class LocalConfig(PageConfig):
    """A folder with train.json and, if there is one, val.json; or a .json or .jsonl of samples.

    A sample is {"id", "image", "prompt", "answer"}, or has "messages" whose content is parts, or
    "conversations" of "from" and "value"; paths begin at the file's folder. The rest is kept.
    """

    place: ClassVar[str] = "a folder with train.json, a .json or .jsonl"

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        if place is None:
            raise UserError(f"local reads {self.place}: espalier prepare DIR")
        for file, side in _files(place):
            for number, record in enumerate(_records(file), 1):
                yield _sample(record, file, number, side)


def is_local(name: str) -> bool:
    """Whether a source's name is a place that holds such samples: JSON that speaks of images."""
    place = Path(name)
    if name and place.is_dir():
        return any((place / one).is_file() for one in NAMES)
    if not place.is_file() or place.suffix not in (".json", ".jsonl"):
        return False
    with place.open("rb") as stream:
        return any(b'"image"' in line or b'"images"' in line for line in stream)


def _files(place: Path) -> list[tuple[Path, Split | None]]:
    if place.is_file():
        return [(place, None)]
    train = next((place / name for name in NAMES if (place / name).is_file()), None)
    if train is None:
        raise UserError(f"{place} has no {TRAIN}")
    if not (place / VAL).is_file():
        return [(train, None)]
    return [(train, "train"), (place / VAL, "val")]


def _records(file: Path) -> Iterator[Any]:
    """The samples of a JSON list, or of lines; those that are no JSON are given as errors."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: byte {error.start}") from None
    if file.suffix == ".jsonl":
        for line in text.split("\n"):  # splitlines would cut at U+2028 as well
            if line.strip():
                yield _parsed(line)
        return
    found = _parsed(text)
    if isinstance(found, ValueError):
        raise UserError(f"{file} is no JSON: {found}")
    if not isinstance(found, list):
        raise UserError(f"{file} holds no list of samples")
    yield from found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        return error


def _sample(record: Any, file: Path, number: int, side: Split | None) -> Sample | Fault:
    where = f"{file.name}, sample {number}"
    if isinstance(record, ValueError):
        return Fault(where, f"no JSON: {record}")
    if not isinstance(record, Mapping):
        return Fault(where, "no record: {…}")
    name = str(record.get("id", where))
    try:
        turns = described(record, file.parent)
    except UserError as error:
        return Fault(name, str(error))
    known = ("id", "image", "images", "prompt", "answer", "messages", "conversations")
    facts = {key: value for key, value in record.items() if key not in known}
    return Sample(name, turns, side, facts)
