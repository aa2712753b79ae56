"""Music as text: tunes in ABC notation (abcnotation.com, standard 2.1), a document each."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from espalier.data.sources.plugins import Document, PluginConfig, read_text
from espalier.errors import UserError

_PLAYED = "XMLQKVPUI"  # fields that say how the notes sound


class MusicConfig(PluginConfig):
    """A document for each tune of .abc files, which begins with its `X:`; comments are left out."""

    files = "tune books in ABC notation"
    fields: Literal["all", "played"] = "all"
    """played leaves out titles, sources and what else makes no sound."""

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        for file in files:
            tunes = re.split(r"^(?=X:)", read_text(file), flags=re.MULTILINE)[1:]
            if not tunes:
                raise UserError(f"{file} has no tune: no line begins with X:")
            for tune in tunes:
                lines = (re.sub(r"(?<!\\)%.*", "", line).rstrip() for line in tune.splitlines())
                yield Document("".join(f"{line}\n" for line in lines if line and self._kept(line)))

    def _kept(self, line: str) -> bool:
        field = re.match(r"([A-Za-z]):", line)
        return self.fields == "all" or field is None or field[1] in _PLAYED
