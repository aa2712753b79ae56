"""Games of chess as text: the moves of PGN files, a game each."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from espalier.data.sources.plugins import Document, PluginConfig, read_text
from espalier.errors import UserError

_LEFT_OUT = re.compile(r"\{[^}]*\}|;[^\n]*|\$\d+|\d+\.+|[!?]+|^%[^\n]*", re.MULTILINE)
_INNERMOST = re.compile(r"\([^()]*\)")


class ChessConfig(PluginConfig):
    """`e4 e5 Nf3 … 1-0`: moves and result, without headers, numbers, comments and variations."""

    files = "PGN files"

    def documents(self, files: Sequence[Path], val_fraction: float) -> Iterator[Document]:
        for file in files:
            games = re.split(r"(?:^\[[^\n]*\]\s*\n)+", read_text(file), flags=re.MULTILINE)
            moves = [text for text in map(_moves, games) if text]
            if not moves:
                raise UserError(f"{file} has no moves")
            yield from map(Document, moves)


def _moves(text: str) -> str:
    plain = _LEFT_OUT.sub(" ", text)
    while (less := _INNERMOST.sub(" ", plain)) != plain:
        plain = less
    return " ".join(plain.split())
