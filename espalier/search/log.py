"""STUDY/search.jsonl: what was asked and told, in order, from which a strategy is brought back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.durable import finite, write_whole
from espalier.errors import UserError
from espalier.search.slots import Found, Proposal, Settings

FILE = "search.jsonl"


@dataclass
class Asked:
    """A proposal with its number and, where it makes trials, their keys."""

    number: int
    proposal: Proposal
    keys: list[str] = field(default_factory=list)
    fresh: bool = False
    """a configuration that counts: not refused, not seen before, no promotion"""

    def line(self) -> dict[str, Any]:
        own = self.proposal
        return {
            "asked": self.number,
            "settings": own.settings,
            "after": own.after,
            "note": dict(own.note),
            "keys": self.keys,
            "fresh": self.fresh,
        }

    def same(self, proposal: Proposal) -> bool:
        """Whether a strategy asks for the very thing again."""
        own = self.proposal
        return _plain(own.settings) == _plain(proposal.settings) and own.after == proposal.after


@dataclass
class Told:
    """What came of a proposal; `why` it has nothing to tell."""

    number: int
    found: Found | None
    why: str = ""

    def line(self) -> dict[str, Any]:
        found = None if self.found is None else dict(self.found)
        return {"told": self.number, "found": found, "why": self.why}


@dataclass(frozen=True)
class Ahead:
    """Stands for a trial that nobody has proposed yet."""

    key: str


def trained(entries: Sequence[Asked | Told], share: Callable[[Settings], float]) -> float:
    """Whole trainings that what has ended came to, beside the baseline's (0 is the baseline).

    `share` of settings is what of a whole training they ask for. What goes on from earlier runs
    trains the rest alone; what was seen before trains nothing.
    """
    asked = [entry for entry in entries if isinstance(entry, Asked)]
    ended = {entry.number for entry in entries if isinstance(entry, Told)}
    shares = [share(one.proposal.settings) for one in asked]
    begun = [0 if one.proposal.after is None else shares[one.proposal.after] for one in asked]
    return sum(
        shares[one.number] - begun[one.number]
        for one in asked[1:]
        if one.number in ended and (one.fresh or one.proposal.after is not None)
    )


class Log:
    """The file, with one writer."""

    def __init__(self, place: Path):
        self.file = place / FILE

    def add(self, entry: Asked | Told) -> None:
        line = json.dumps(finite(entry.line()), ensure_ascii=False, allow_nan=False) + "\n"
        with self.file.open("ab") as stream:
            stream.write(line.encode("utf-8"))

    def entries(self) -> list[Asked | Told]:
        """Every entry; a last line torn by a crash is left out."""
        lines = self.file.read_bytes().split(b"\n")[:-1] if self.file.is_file() else []
        try:
            return [_entry(json.loads(line)) for line in lines]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{self.file} is damaged: a line in it is no entry") from None

    def keep(self, entries: list[Asked | Told]) -> None:
        """Only these, whole or not at all."""
        lines = (json.dumps(finite(one.line()), ensure_ascii=False) + "\n" for one in entries)
        write_whole(self.file, "".join(lines))


def _entry(line: dict[str, Any]) -> Asked | Told:
    if "told" in line:
        return Told(line["told"], line["found"], line["why"])
    proposal = Proposal(line["settings"], line["after"], line["note"])
    return Asked(line["asked"], proposal, line["keys"], line["fresh"])


def _plain(settings: dict[str, Any]) -> Any:
    """As it comes back from the file."""
    return json.loads(json.dumps(settings, sort_keys=True))
