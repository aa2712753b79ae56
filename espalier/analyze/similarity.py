"""How alike two places represent the same tokens: linear CKA (arXiv:1905.00414).

|Y^T X|^2 / (|X^T X| |Y^T Y|) with features centred and Frobenius norms: 1 for representations that
differ by a rotation and a scale. With few tokens for many features it is biased upwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espalier.analyze import sight, stream
from espalier.analyze.views import Found, Seen, heat
from espalier.nn.gpt import GPT

MOST = 8192  # tokens


def look(seen: Seen) -> Found:
    """Each place of the stream with each; with --against, this model's with that one's."""
    mine = places(seen, seen.model)
    theirs = mine if seen.against is None else places(seen, seen.against)
    values = table(mine, theirs)
    rows = [
        {"place": name, "other": other, "cka": values[i][j]}
        for i, name in enumerate(mine)
        for j, other in enumerate(theirs)
        if seen.against is not None or i < j
    ]
    title = "Linear CKA between places" + (" of two models" if seen.against is not None else "")
    chart = heat("cka", title, [list(row) for row in values], (list(mine), list(theirs)))
    tokens = len(next(iter(mine.values())))
    return {"tokens": tokens, "rows": rows, "charts": [chart]}


def places(seen: Seen, model: GPT) -> dict[str, Tensor]:
    """By place, the stream (tokens, d) over the windows, at most MOST tokens of them."""
    found: dict[str, list[Tensor]] = {}
    count = 0
    for ids, _ in sight.batches(seen):
        if count >= MOST:
            break
        count += ids.numel()
        for place, x in stream.read(model, ids).points.items():
            found.setdefault(place, []).append(x.flatten(0, 1).cpu())
    return {place: torch.cat(pieces)[:MOST] for place, pieces in found.items()}


def table(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[list[float]]:
    ours = [_centred(x) for x in mine.values()]
    others = ours if theirs is mine else [_centred(x) for x in theirs.values()]
    return [[_cka(x, y) for y in others] for x in ours]


def cka(x: Tensor, y: Tensor) -> float:
    """Of representations (tokens, features) of the same tokens; features may differ in number."""
    return _cka(_centred(x), _centred(y))


def _centred(x: Tensor) -> Tensor:
    """Without its mean, and scaled so that |X^T X| is 1."""
    x = x.double()
    x = x - x.mean(0)
    norm = torch.linalg.matrix_norm(x.T @ x)
    return x / norm.sqrt() if norm > 0 else x


def _cka(x: Tensor, y: Tensor) -> float:
    return float((y.T @ x).square().sum())
