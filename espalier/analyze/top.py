"""The tokens that move each neuron most, with what stands before them.

A neuron is a feature of an activation's output (or of any module that --only names).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from espalier.analyze import record, sight
from espalier.analyze.views import Found, Seen
from espalier.data.tokens import Tokens
from espalier.errors import UserError
from espalier.nn.state import Pass

KEPT = 8  # activations of each neuron
SHOWN = 8  # neurons of each place, where none are asked for
BEFORE, AFTER = 12, 4  # tokens of context


class Top:
    """The `count` largest values of each feature, and where they were met."""

    def __init__(self, count: int):
        self.count, self.seen = count, 0  # rows
        self.values, self.places = torch.empty(0, 0), torch.empty(0, 0, dtype=torch.long)
        self.squares: Tensor | float = 0.0

    def add(self, x: Float[Tensor, "rows features"], tokens: Int[Tensor, " rows"]) -> None:
        """`tokens`: the number of each row's token among all."""
        flat = x.detach().float()
        self.squares = self.squares + flat.double().square().sum(0)
        values, places = flat.topk(min(self.count, len(flat)), 0)
        places = tokens[places]
        self.seen += len(flat)
        if self.values.numel():
            values = torch.cat([self.values, values])
            places = torch.cat([self.places, places])
        self.values, order = values.topk(min(self.count, len(values)), 0)
        self.places = places.gather(0, order)

    def peaks(self) -> Tensor:
        """The largest value over the root of the mean square, of each feature."""
        size = (torch.as_tensor(self.squares) / self.seen).sqrt()
        return self.values[0].double() / size.clamp(min=torch.finfo(torch.float32).tiny)


def look(seen: Seen) -> Found:
    chosen = places(seen)
    found = gather(seen, chosen)
    tokens, starts = seen.text("val")
    wanted = _numbers(seen.asked.neurons)
    listed: dict[str, Any] = {}
    for path, top in found.items():
        peaks = top.peaks()
        neurons = peaks.topk(min(SHOWN, len(peaks))).indices.tolist() if wanted is None else wanted
        if max(neurons) >= len(peaks):
            raise UserError(f"{path} has {len(peaks)} neurons: there is no {max(neurons)}")
        listed[path] = [
            {"neuron": n, "peak": float(peaks[n]), "top": _met(seen, top, n, (tokens, starts))}
            for n in neurons
        ]
    rows = [
        {"place": path, "neuron": one["neuron"], "peak": one["peak"]}
        | {"value": one["top"][0]["value"], "context": one["top"][0]["text"]}
        for path, neurons in listed.items()
        for one in neurons
    ]
    return {"places": listed, "rows": rows, "charts": []}


def places(seen: Seen) -> list[str]:
    """Modules whose features are neurons; UserError where there is none."""
    chosen = record.places(seen.model, seen.only)
    if seen.only == "*":
        chosen = [path for path in chosen if path.rpartition(".")[2] == "activation"]
    if not chosen:
        raise UserError(f"no module fits --only '{seen.only}'")
    return chosen


@torch.no_grad()
def gather(seen: Seen, chosen: list[str]) -> dict[str, Top]:
    """By place, the largest activations over the windows; of branches, each branch's features.

    Raises UserError where no output has a row for each token, such as attention's scores.
    """
    found: defaultdict[str, Top] = defaultdict(lambda: Top(KEPT))
    before = 0

    def hear(path: str, inputs: tuple[Any, ...], output: Any) -> None:
        given = _given(inputs, ids.numel())
        for name, tensor in record.tensors(path, output):
            x = by_token(tensor, len(ids))
            x = x.reshape(-1, x.shape[-1])
            if len(x) == len(given) > 0:  # 0: an expert that no token chose
                found[name].add(x, before + given.to(x.device))

    with record.listening(seen.model, dict.fromkeys(chosen, hear)):
        for ids, _ in sight.batches(seen):
            seen.model(ids)
            before += ids.numel()
    if not found:
        raise UserError(f"nothing that fits --only '{seen.only}' gives a row for each token")
    return dict(found)


def _given(inputs: tuple[Any, ...], count: int) -> Int[Tensor, " rows"]:
    """The numbers of the tokens that a part is called with, of `count` in the pass."""
    among = (one.tokens for one in inputs if isinstance(one, Pass))
    tokens = next(among, None)
    return torch.arange(count) if tokens is None else tokens


def by_token(x: Tensor, rows: int) -> Tensor:
    """(batch, time, features); what has branches first, (branches, batch, time, width), side by
    side."""
    if x.ndim == 4 and x.shape[1] == rows:
        return x.permute(1, 2, 0, 3).flatten(2)
    return x


def _met(seen: Seen, top: Top, neuron: int, text: tuple[Tokens, Any]) -> list[Found]:
    """Where a neuron was most active, the token itself in brackets."""
    tokens, starts = text
    found = []
    values, flat = top.values[:, neuron].tolist(), top.places[:, neuron].tolist()
    for value, place in zip(values, flat, strict=True):
        window, position = divmod(place, seen.block_size)
        first = int(starts[window])
        ids = tokens.gather([first], seen.block_size)[0].tolist()
        words = sight.words(seen, ids[max(0, position - BEFORE) : position + AFTER])
        here = min(position, BEFORE)
        words[here] = f"[{words[here]}]"
        found.append({"value": value, "offset": first + position, "text": _joined(words)})
    return found


def _joined(words: list[str]) -> str:
    apart = all(word.strip("[]").isdigit() for word in words)
    return (" " if apart else "").join(words)


def _numbers(wish: str | None) -> list[int] | None:
    if wish is None:
        return None
    words = [word.strip() for word in wish.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--neurons takes numbers with commas, not '{wish}'")
    return [int(word) for word in words]
