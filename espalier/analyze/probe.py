"""Linear probes at each place of the stream, beside control tasks (Hewitt, Liang 2019).

A probe is multinomial logistic regression on standardised features. Its control task gives each
type (a token, a position) a random label, drawn as labels are distributed, so that it can only be
learnt by heart; selectivity is accuracy minus the control's (arXiv:1909.03368).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.analyze import sight, stream
from espalier.analyze.views import Found, Rows, Seen, lines
from espalier.errors import UserError
from espalier.tree import read_yaml

TESTED = 4  # one window of so many is kept for the test
RIDGE = 1e-3  # times the squared weights
ROUNDS = 60  # of L-BFGS
BINS = 8  # of positions


@dataclass(frozen=True)
class Task:
    """Labels (tokens,), and the type of each, which a control task gives one random label."""

    labels: Tensor
    types: Tensor

    def control(self, seed: int) -> Task:
        """A label for each type, drawn from the labels as often as they occur."""
        chance = torch.Generator().manual_seed(seed)
        kinds, which = torch.unique(self.types, return_inverse=True)
        drawn = torch.randint(len(self.labels), (len(kinds),), generator=chance)
        return Task(self.labels[drawn][which], self.types)


def look(seen: Seen) -> Found:
    ids = torch.cat([inputs.cpu() for inputs, _ in sight.batches(seen)])
    if len(ids) < TESTED:
        raise UserError(f"--view probe needs at least --windows {TESTED}")
    wanted, names = labels(seen, ids)
    test = (torch.arange(len(ids)) % TESTED == TESTED - 1)[:, None].expand_as(ids)
    known = wanted >= 0
    types = torch.arange(ids.shape[1]).expand_as(ids) if _by_place(seen) else _before(ids)
    task = Task(wanted[known], types[known])
    control, held = task.control(seen.asked.seed), test[known]
    if len(set(task.labels[~held].tolist())) < 2 or not held.any():
        raise UserError(f"--label {seen.asked.label} is one and the same for all tokens seen")
    rows: Rows = []
    for place, x in features(seen, known).items():
        own = accuracy(x, task.labels, held)
        chance = accuracy(x, control.labels, held)
        one = {"accuracy": own, "control": chance, "selectivity": own - chance}
        rows.append({"place": place, **one})
    most = float(task.labels[held].bincount().max() / held.sum())
    curves = {
        key: {row["place"]: row[key] for row in rows}
        for key in ("accuracy", "control", "selectivity")
    }
    chart = lines("accuracy", f"Probes of {seen.asked.label}", curves)
    found = {"label": seen.asked.label, "classes": names, "most_frequent": most}
    return found | {"tokens": len(held), "rows": rows, "charts": [chart]}


def _by_place(seen: Seen) -> bool:
    return seen.asked.label == "position"


def _before(ids: Tensor) -> Tensor:
    """The token before each; of the first, itself."""
    return torch.cat([ids[:, :1], ids[:, :-1]], 1)


@torch.no_grad()
def features(seen: Seen, known: Tensor) -> dict[str, Tensor]:
    """By place, the stream (tokens, d) where `known` (windows, time)."""
    found: dict[str, list[Tensor]] = {}
    first = 0
    for ids, _ in sight.batches(seen):
        here = known[first : first + len(ids)]
        first += len(ids)
        for place, x in stream.read(seen.model, ids).points.items():
            found.setdefault(place, []).append(x.float().cpu()[here])
    return {place: torch.cat(pieces) for place, pieces in found.items()}


def labels(seen: Seen, ids: Tensor) -> tuple[Tensor, list[str]]:
    """Labels like `ids` (windows, time), -1 where there is none, and their names."""
    wish = seen.asked.label
    if wish == "position":
        time = ids.shape[1]
        count = min(BINS, time)
        where = torch.arange(time) * count // time
        return where.expand_as(ids).clone(), [f"{n + 1} of {count}" for n in range(count)]
    tokenizer = seen.tokenizer()
    texts = {token: tokenizer.decode([token]) for token in sorted(set(ids.flatten().tolist()))}
    if wish == "previous":
        found, names = _numbered(texts, {token: kind(text) for token, text in texts.items()})
        given = found[_before(ids)]
        given[:, 0] = -1
        return given, names
    table = read_yaml(Path(wish)).tree
    known = {t: str(table[text]) for t, text in texts.items() if text in table}
    if not known:
        raise UserError(f"no token of {wish} is met in these windows")
    found, names = _numbered(texts, known)
    return found[ids], names


def _numbered(texts: Mapping[int, str], named: dict[int, str]) -> tuple[Tensor, list[str]]:
    """By token id, the number of its label's name, -1 without one; the names."""
    names = sorted(set(named.values()))
    table = torch.full((max(texts) + 1,), -1)
    for token, name in named.items():
        table[token] = names.index(name)
    return table, names


def kind(text: str) -> str:
    """Of a token's last character: vowel, consonant, capital, digit, line, space, mark, other."""
    last = text[-1:]
    if last.isspace():
        return "line" if last == "\n" else "space"
    if last.isalpha():
        plain = unicodedata.normalize("NFD", last)[0]
        return "capital" if last.isupper() else "vowel" if plain in "aeiou" else "consonant"
    if last.isdigit():
        return "digit"
    return "mark" if unicodedata.category(last or "x").startswith(("P", "S")) else "other"


def accuracy(x: Tensor, labels: Tensor, held: Tensor) -> float:
    """Of a probe of `labels` from `x` (tokens, d), trained where not `held`, tested where held."""
    train = x[~held]
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    weight, bias = fit((train - mean) / deviation, labels[~held])
    guess = ((x[held] - mean) / deviation @ weight + bias).argmax(-1)
    return float((guess == labels[held]).double().mean())


def fit(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (d, classes) and bias with the least mean cross-entropy + RIDGE |weight|^2."""
    classes = int(labels.max()) + 1
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        lost = F.cross_entropy(x @ weight + bias, labels) + RIDGE * weight.square().sum()
        lost.backward()  # type: ignore[no-untyped-call]
        return lost

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
