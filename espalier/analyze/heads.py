"""What heads look at: previous tokens, duplicates, and what followed them (induction).

On r_0 ... r_(n-1) r_0 ... r_(n-1), random and different tokens twice (Olsson et al. 2022,
arXiv:2209.11895), with w(q, k) a head's weight of key k for query q, means over sequences and
queries of: previous w(q, q - 1), for q >= 1; duplicate w(q, q - n) and induction
w(q, q - n + 1), for q >= n, the second half.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from espalier.analyze import record, stream
from espalier.analyze.intervene import head_name
from espalier.analyze.views import Found, Seen, heat
from espalier.errors import UserError
from espalier.nn.attend import Attend
from espalier.nn.gpt import GPT

ROWS = 16  # sequences
LONGEST = 64  # tokens that are repeated
KINDS = ("previous", "induction", "duplicate")


def look(seen: Seen) -> Found:
    period = min(LONGEST, seen.block_size // 2, seen.vocab_size)
    if period < 2:
        raise UserError("--view heads needs a block and a vocabulary of at least 4 and 2 tokens")
    ids = repeated(seen.vocab_size, period, ROWS, seen.asked.seed)
    device = next(seen.model.parameters()).device
    rows = [
        row
        for row in scores(patterns(seen.model, ids.to(device)), period)
        if fnmatchcase(row["head"], seen.only)
    ]
    lacking = without(seen.model)
    if not rows and not lacking:
        raise UserError(f"no head fits --only '{seen.only}'; heads are called PATH:NUMBER")
    charts = [grid(kind, rows) for kind in KINDS] if rows else []
    return {"period": period, "rows": rows, "without": lacking, "charts": charts}


def repeated(vocab_size: int, period: int, rows: int, seed: int) -> Tensor:
    """(rows, 2 period): `period` random tokens, all different, twice."""
    chance = torch.Generator().manual_seed(seed)
    once = [torch.randperm(vocab_size, generator=chance)[:period] for _ in range(rows)]
    return torch.stack(once).repeat(1, 2)


@torch.no_grad()
def patterns(model: GPT, ids: Tensor) -> dict[str, Tensor]:
    """Weights (batch, heads, query, key) by path of what attends; #2 ... where a pass returns.

    From recorded queries and keys through the score part itself, on its reference path. They are
    what values are multiplied with, so a row adds up to 1 only where the score makes it so; a
    sink's share is left out.
    """
    found: dict[str, Tensor] = {}

    def hear(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        place, mark, number = path.partition("#")
        found[f"{place.rpartition('.')[0]}{mark}{number}"] = output[..., : ids.shape[1]]

    chosen = [f"{path}.score" for path in stream.mixers(model)]
    with record.plainly(model), record.listening(model, dict.fromkeys(chosen, hear)):
        model(ids)
    return found


def scores(found: dict[str, Tensor], period: int) -> list[Found]:
    """A row for each head: previous, induction, duplicate, and the mean sum of its weights."""
    rows = []
    for call, weights in found.items():
        w = weights.double()
        of = {
            "previous": w.diagonal(-1, -2, -1),
            "induction": w.diagonal(1 - period, -2, -1)[..., 1:],  # without query n - 1
            "duplicate": w.diagonal(-period, -2, -1),
            "row_sum": w.sum(-1),
        }
        means = {key: one.mean((0, 2)).tolist() for key, one in of.items()}
        rows += [
            {"head": head_name(call, head), **{key: one[head] for key, one in means.items()}}
            for head in range(weights.shape[1])
        ]
    return rows


def without(model: GPT) -> dict[str, str]:
    """Parts in an attention's place that have no weight for each key, and what they have."""
    found = {}
    for path in stream.parts(model):
        part = model.get_submodule(path)
        inner = any(isinstance(module, Attend) for module in part.modules())
        if path.endswith(".attention") and not inner:
            name = type(part).__name__
            sums = getattr(part, "places_tokens", True) is False
            what = "keeps sums over all keys" if sums else "looks at no other token"
            found[path] = f"{name} {what}: there is no weight for each key"
    return found


def grid(kind: str, rows: list[Found]) -> Found:
    """A chart: a row for each attention, a column for each head."""
    places: dict[str, list[float | None]] = {}
    for row in rows:
        path, _, rest = row["head"].rpartition(":")
        mark, number = rest.partition("#")[1:]
        places.setdefault(path + mark + number, []).append(row[kind])
    widest = max(len(values) for values in places.values())
    values = [one + [None] * (widest - len(one)) for one in places.values()]
    return heat(kind, f"{kind} score of each head", values, (list(places), _numbers(widest)))


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]
