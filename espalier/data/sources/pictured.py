"""Sources of samples with images: `espalier prepare NAME[:SUBSET] [--from PLACE] [setting=value…]`.

Each is a file of the folder `page` with one class that extends `PageConfig`, found by its name, or
somebody's own, by its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from espalier.config import PartConfig, decode, encode, names, resolve
from espalier.data.samples import Fault, Picture, Sample, Turn, picture, turns
from espalier.data.sources.plugins import defines
from espalier.durable import digest
from espalier.errors import MachineError, UserError, need
from espalier.tree import parse_value

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
MARK = "<image>"  # where an image stands, in the schemas that write it into the prompt


class PageConfig(PartConfig, slot="espalier.data.sources.page"):
    """A program that gives samples with images; its fields are settings of the command line."""

    place: ClassVar[str] = ""  # what --from names; empty: nothing
    tokenizer: ClassVar[str] = "byte"  # where --tokenizer is left out

    samples: int | None = Field(default=None, ge=1)
    """At most so many."""

    def read(self, place: Path | None, val_fraction: float) -> Iterator[Sample | Fault]:
        """All samples, in an order that is always the same."""
        raise NotImplementedError

    def most(self) -> int | None:
        """How many samples are taken of `read`."""
        return self.samples

    def mode(self) -> str | int:
        """How its images are read where nobody says."""
        return "base"


@dataclass(frozen=True)
class Pages:
    """The samples of a source, with its settings."""

    config: PageConfig
    place: Path | None
    val_fraction: float

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": "pages", "name": self.config.name}
        if self.place is not None:
            found["place"] = self.place.name
            if self.place.is_file():
                found["sha256"] = digest(self.place)
        return found | {"settings": encode(self.config)}

    def read(self) -> Iterator[Sample | Fault]:
        yield from islice(self.config.read(self.place, self.val_fraction), self.config.most())


def is_pictured(name: str) -> bool:
    """Whether it names such a source."""
    return _stem(name) in names(PageConfig) or defines(name, PageConfig)


def configured(
    name: str, words: Sequence[str], place: Path | None, samples: int | None, val_fraction: float
) -> Pages:
    """The source with its settings; UserError for words it cannot use."""
    kind = resolve(PageConfig, _stem(name))
    given: dict[str, Any] = {} if samples is None else {"samples": samples}
    if name != _stem(name) and (subset := name.partition(":")[2]):
        given["subset"] = subset
    for word in words:
        key, is_setting, value = word.partition("=")
        if not is_setting or not key.isidentifier():
            raise UserError(f"{name} takes settings, key=value, and --from PLACE; got {word}")
        given[key] = parse_value(value)
    if place is not None and not kind.place:
        raise UserError(f"{name} reads nothing: --from is for others")
    if place is not None and not place.exists():
        raise UserError(f"no file or folder {place}")
    return Pages(decode(kind, given, _stem(name)), place, val_fraction)


def _stem(name: str) -> str:
    return name if name.endswith(".py") else name.partition(":")[0].replace("-", "_")


def table(
    place: Path | None, source: str, subset: str | None = None, split: str = "train"
) -> Iterator[Mapping[str, Any]]:
    """The rows of a local .parquet, .json or .jsonl (or folder of them), else of the hub's table.

    Images come as their files' bytes. Raises UserError, MachineError.
    """
    library = need("datasets", "data")
    library.disable_progress_bars()
    try:
        if place is None:
            stream = library.load_dataset(source, subset, split=split, streaming=True)
        else:
            kind, files = _files(place)
            stream = library.load_dataset(kind, data_files=files, split="train", streaming=True)
        yield from stream.decode(False)
    except (UserError, MachineError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]
        if place is not None:
            raise UserError(f"cannot read {place}: {reason}") from None
        raise MachineError(
            f"cannot stream {source}: {reason}.\nOffline: a local copy goes with --from FILE"
        ) from None


def _files(place: Path) -> tuple[str, list[str]]:
    """Which reader, and its files."""
    found = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    suffix = found[0].suffix.lower() if found else ""
    if suffix not in (".parquet", ".json", ".jsonl"):
        raise UserError(f"{place} holds no table: .parquet, .json or .jsonl")
    return suffix.removeprefix(".").removesuffix("l"), [str(file) for file in found]


def asked(prompt: str, pictures: Sequence[Picture]) -> Turn:
    """A question about images, which stand before it; nothing that it says means an image."""
    return Turn("user", (*pictures, f"\n{prompt}") if pictures else (prompt,))


def marked(prompt: str, pictures: Sequence[Picture]) -> Turn:
    """Of a schema whose prompts say with MARK where an image stands, as often as it has images.

    Images without a MARK stand first; further MARKs are text.
    """
    pieces = prompt.split(MARK, len(pictures))
    if len(pieces) == 1:
        return asked(prompt, pictures)
    free = len(pictures) - len(pieces) + 1
    parts: list[str | Picture] = [*pictures[:free], pieces[0]]
    for shown, piece in zip(pictures[free:], pieces[1:], strict=True):
        parts += [shown, piece]
    return Turn("user", tuple(part for part in parts if part))


def answered(prompt: str, pictures: Sequence[Picture], answer: str) -> tuple[Turn, ...]:
    return asked(prompt, pictures), Turn("assistant", (answer,))


def described(record: Mapping[str, Any], folder: Path) -> tuple[Turn, ...]:
    """A record of the schemas that people have; UserError for another.

    {"image" or "images", "prompt", "answer"}; {"messages"} whose content has parts; {"image" or
    "images", "conversations": [{"from", "value"}, …]}.
    """
    if "messages" in record:
        return turns(record, folder)
    given = record.get("images") or ([record["image"]] if record.get("image") else [])
    if not isinstance(given, list):
        raise UserError("its images are no list")
    pictures = [picture(one, folder) for one in given]
    if isinstance(said := record.get("conversations"), list):
        return _conversation([one for one in said if isinstance(one, Mapping)], pictures)
    prompt, answer = record.get("prompt"), record.get("answer")
    if not isinstance(prompt, str) or not isinstance(answer, str):
        keys = ", ".join(map(str, record)) or "none"
        raise UserError(f"it has no prompt and answer, both texts (keys there: {keys})")
    return marked(prompt, pictures), Turn("assistant", (answer,))


def _conversation(given: Any, pictures: Sequence[Picture]) -> tuple[Turn, ...]:
    """Each question gets as many images as it has MARKs, the first those that are over, too."""
    said = [(ROLES.get(str(one.get("from"))), one.get("value")) for one in given]
    if any(role is None or not isinstance(text, str) for role, text in said):
        raise UserError("its conversation has a message without from and value")
    found: list[Turn] = []
    left = len(pictures)
    over = max(0, left - sum(text.count(MARK) for role, text in said if role == "user"))
    for role, text in said:
        if role != "user":
            found.append(Turn(str(role), (text,)))
            continue
        count, over = over + text.count(MARK), 0
        found.append(marked(text, pictures[len(pictures) - left :][:count]))
        left = max(0, left - count)
    return tuple(found)
