"""What each place of the residual stream would predict, read by the model's own way out.

Logit lens: the trunk's norm and the head at each point of the stream (nostalgebraist, 2020). Tuned
lens: an affine map x + A x + b before them, for each point, trained towards the least KL from what
the model says in the end (Belrose et al., arXiv:2303.08112).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.analyze import sight, stream
from espalier.analyze.stream import Stream
from espalier.analyze.views import Found, Rows, Seen, heat, lines
from espalier.nn.gpt import GPT

STEPS = 250
RATE = 2e-3  # of Adam, falling to 0
LONGEST = 32  # tokens of the text that is told token by token

Lenses = Mapping[str, nn.Linear]


def look(seen: Seen) -> Found:
    lenses = tune(seen) if seen.asked.tuned else {}
    plain = figures(seen, {})
    rows: Rows = [{"place": place, **one} for place, one in plain.items()]
    curves = {"logit lens": {place: one["kl"] for place, one in plain.items()}}
    if lenses:
        tuned = figures(seen, lenses)
        for row in rows:
            row |= {f"tuned_{key}": value for key, value in tuned[row["place"]].items()}
        curves["tuned lens"] = {place: one["kl"] for place, one in tuned.items()}
    told = tokens(seen, lenses)
    words = [place["tokens"] for place in told["places"]]
    shares = [place["probability"] for place in told["places"]]
    names = [place["place"] for place in told["places"]]
    charts = [
        lines("kl", "KL of what the model says from what each place says, nats", curves),
        heat("tokens", "Likeliest next token", shares, (names, told["text"]), words),
    ]
    return {"rows": rows, "told": told, "charts": charts}


@torch.no_grad()
def figures(seen: Seen, lenses: Lenses) -> dict[str, dict[str, float]]:
    """By place, means over the windows' tokens.

    `loss` of the next token and `kl` of the model's distribution from the lens', in nats;
    `agreement`: the share of tokens at which both have the same favourite.
    """
    sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
    count = 0
    for ids, targets in sight.batches(seen):
        found, learnt = stream.read(seen.model, ids), targets >= 0
        count += int(learnt.sum())
        final = F.log_softmax(found.logits[learnt].float(), -1)
        for place, logits in readings(seen.model, found, lenses):
            mine = F.log_softmax(logits[learnt].float(), -1)
            loss = F.nll_loss(mine, targets[learnt], reduction="sum")
            same = (mine.argmax(-1) == final.argmax(-1)).sum()
            sums[place] += torch.stack([loss, divergence(final, mine), same]).double().cpu()
    keys = ("loss", "kl", "agreement")
    return {
        place: dict(zip(keys, (total / max(1, count)).tolist(), strict=True))
        for place, total in sums.items()
    }


def divergence(final: Tensor, mine: Tensor) -> Tensor:
    """KL(final || mine) of log-probabilities, added up over all rows."""
    return F.kl_div(mine, final, reduction="sum", log_target=True)


def readings(model: GPT, found: Stream, lenses: Lenses) -> list[tuple[str, Tensor]]:
    """Logits at each place, through its lens where it has one."""
    return [
        (place, stream.unembed(model, lenses[place](x) + x if place in lenses else x, found.now))
        for place, x in found.points.items()
    ]


def tune(seen: Seen) -> dict[str, nn.Linear]:
    """Lenses trained on windows of the training split; they begin as the logit lens."""
    first, _ = next(sight.batches(seen, "train"))
    found = stream.read(seen.model, first[:1])
    lenses: dict[str, nn.Linear] = {}
    for place, x in found.points.items():
        lenses[place] = nn.Linear(x.shape[-1], x.shape[-1], device=x.device, dtype=x.dtype)
        for parameter in lenses[place].parameters():
            nn.init.zeros_(parameter)
    weights = [p for lens in lenses.values() for p in lens.parameters()]
    optimizer = torch.optim.Adam(weights, RATE)
    plan = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    batches = [ids for ids, _ in sight.batches(seen, "train")]
    chance = torch.Generator().manual_seed(seen.asked.seed)
    for _ in range(STEPS):
        ids = batches[int(torch.randint(len(batches), (), generator=chance))]
        rows = torch.randperm(len(ids), generator=chance)[: max(1, 512 // ids.shape[1])]
        gradients(seen.model, ids[rows.to(ids.device)], lenses, weights)
        optimizer.step()
        plan.step()
    return lenses


def gradients(model: GPT, ids: Tensor, lenses: Lenses, weights: list[nn.Parameter]) -> None:
    """Fill the lenses' gradients, place by place; the model's own weights get none."""
    found = stream.read(model, ids)
    final = F.log_softmax(found.logits.flatten(0, 1).float(), -1)
    for weight in weights:
        weight.grad = None
    for place, x in found.points.items():
        logits = stream.unembed(model, x + lenses[place](x), found.now).flatten(0, 1)
        loss = divergence(final, F.log_softmax(logits.float(), -1)) / len(final)
        own = list(lenses[place].parameters())
        for weight, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            weight.grad = gradient


@torch.no_grad()
def tokens(seen: Seen, lenses: Lenses) -> Found:
    """At each place and token of a short text, the likeliest next token and its probability."""
    ids, words = sight.ids(seen, LONGEST)
    found = stream.read(seen.model, ids)
    places = []
    for place, logits in readings(seen.model, found, lenses):
        best = torch.softmax(logits[0].float(), -1).max(-1)
        likely = sight.words(seen, best.indices.tolist())
        places.append({"place": place, "tokens": likely, "probability": best.values.tolist()})
    return {"text": words, "places": places}
