"""Several sources as one corpus, one after the other."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from espalier.data.pieces import Mark, Piece, Source
from espalier.data.sources.textfile import TextFiles


@dataclass(frozen=True)
class Several:
    """The documents of all `members`; the cursor is a member and its own cursor.

    A text that would be a corpus of one document is divided at its own position, so that both
    splits have their share of it.
    """

    members: tuple[Source, ...]
    one: bool = False

    @cached_property
    def unit(self) -> str:
        units = {member.unit for member in self.members}
        return units.pop() if len(units) == 1 else "documents"

    @cached_property
    def size(self) -> float | None:
        sizes = [member.size for member in self.members]
        known = [size for size in sizes if size is not None]
        same = len({member.unit for member in self.members}) == 1
        return sum(known) if same and len(known) == len(sizes) else None

    @property
    def text_bytes(self) -> int | None:
        known = [member.text_bytes for member in self.members]
        found = [size for size in known if size is not None]
        return sum(found) if len(found) == len(known) else None

    def identity(self) -> dict[str, Any]:
        found = [member.identity() for member in self.members]
        names = " + ".join(str(item["name"]) for item in found)
        return {"kind": "several", "name": names, "sources": found}

    def read(self, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
        first = cursor["member"] if cursor else 0
        documents = cursor["documents"] if cursor else 0
        before = sum(member.size or 0.0 for member in self.members[:first])
        for index in range(first, len(self.members)):
            member = self.members[index]
            inner = cursor["inner"] if cursor and index == first else None
            for piece in _sided(member, inner, tally):
                documents += piece.last
                mark = None
                if piece.mark is not None:
                    place = {"member": index, "inner": piece.mark.cursor, "documents": documents}
                    done = documents if self.size is None else before + piece.mark.done
                    mark = Mark(place, done, piece.mark.tally)
                yield piece._replace(mark=mark)
            before += member.size or 0.0


def _sided(member: Source, cursor: dict[str, Any] | None, tally: Counter[str]) -> Iterator[Piece]:
    """A member's pieces; those of a divided text say their side, and its training part ends."""
    pieces = member.read(cursor, tally)
    if not (isinstance(member, TextFiles) and member.one):
        yield from pieces
        return
    (edge,) = member.edges
    waiting: Piece | None = None
    for piece in pieces:
        if waiting is not None:
            yield waiting._replace(last=piece.at == edge)
        late = piece.at >= edge
        # another key, for it is another document than the first part
        waiting = piece._replace(side="val" if late else "train", key=piece.key ^ late)
    if waiting is not None:
        yield waiting
