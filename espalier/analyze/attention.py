"""Which tokens heads look at, in one text."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import Tensor

from espalier.analyze import heads, sight
from espalier.analyze.intervene import head_name
from espalier.analyze.views import Found, Seen, heat
from espalier.errors import UserError

LONGEST = 64  # tokens of a pattern: more cannot be seen
DRAWN = 24  # heads


def look(seen: Seen) -> Found:
    ids, words = sight.ids(seen, LONGEST)
    found = {
        head_name(call, head): one.tolist()
        for call, weights in heads.patterns(seen.model, ids).items()
        for head, one in enumerate(weights[0].double())
        if fnmatchcase(head_name(call, head), seen.only)
    }
    lacking = heads.without(seen.model)
    if not found and not lacking:
        raise UserError(f"no head fits --only '{seen.only}'; heads are called PATH:NUMBER")
    charts = [
        heat(f"{number:03}", name, pattern, (words, words))
        for number, (name, pattern) in enumerate(list(found.items())[:DRAWN])
    ]
    rows = [{"head": name} | figures(torch.tensor(one), words) for name, one in found.items()]
    return {"tokens": words, "patterns": found, "rows": rows, "without": lacking, "charts": charts}


def figures(pattern: Tensor, words: list[str]) -> Found:
    """Of a pattern (query, key): mean distance looked back, weighed; share on the first token and
    on itself; what the last query looks at most."""
    time = len(pattern)
    back = (torch.arange(time)[:, None] - torch.arange(time)).clamp(min=0)
    total = pattern.sum().clamp(min=torch.finfo(pattern.dtype).tiny)
    return {
        "distance": float((pattern * back).sum() / total),
        "first": float(pattern[:, 0].sum() / total),
        "itself": float(pattern.diagonal().sum() / total),
        "last looks at": words[int(pattern[-1].argmax())],
    }
