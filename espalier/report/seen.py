"""How a model saw a text, as coloured pieces and as places of a heatmap: from a trace's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from espalier.report.colours import Mode, Piece, ranked, scaled
from espalier.report.heatmaps import Place

if TYPE_CHECKING:
    from espalier.data.tokenizer.base import Tokenizer
    from espalier.engine.trace import Trace


def texts(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> list[str]:
    """What each of `ids` adds; bytes of an unfinished character show with the one that ends it."""
    from espalier.engine.text import Decoder

    decoder = Decoder(tokenizer, before)
    found = [decoder.push(token) for token in ids]
    if found:
        found[-1] += decoder.flush()
    return found


def pieces(
    mode: Mode, found: Trace, words: Sequence[str], k: int, cosines: Sequence[float] = ()
) -> list[Piece]:
    """`words` coloured by the mode; `k`: the rank that is red; `cosines` belong to mode dot."""
    values: Sequence[float | None]
    if mode == "minmax":
        values = scaled(found.logit.tolist())
    elif mode == "probability":
        values = found.probability.tolist()
    elif mode == "rank":
        values = ranked(found.rank.tolist(), k)
    elif mode == "dot":
        values = [(1 + cosine) / 2 for cosine in cosines]
    else:
        values = scaled([-loss for loss in found.loss.tolist()])
    notes = (
        f"probability {math.exp(log):.3g}, rank {rank}, loss {-log:.3f}"
        for log, rank in zip(found.log_probability.tolist(), found.rank.tolist(), strict=True)
    )
    return [Piece(*one) for one in zip(words, values, notes, strict=True)]


def places(found: Trace, words: Sequence[str], tokenizer: Tokenizer) -> list[Place]:
    """One for each token, with its candidates as text."""
    rows = zip(
        words,
        found.tokens.tolist(),
        found.logit.tolist(),
        found.low.tolist(),
        found.high.tolist(),
        found.candidates.tolist(),
        found.chances.tolist(),
        strict=True,
    )
    return [
        Place(
            word,
            logit,
            low,
            high,
            [(tokenizer.decode([i]), p) for i, p in zip(ids, chances, strict=True)],
            ids.index(token) if token in ids else None,
        )
        for word, token, logit, low, high, ids, chances in rows
    ]
