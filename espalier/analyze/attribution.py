"""Direct logit attribution: what each part adds to a logit, straight through the way out.

The stream before the trunk's norm is a sum of what was added on the way: the embedding, what each
layer adds, what a stack adds between layers. With the norm's scale held at what it was, norm and
head are linear, and a logit (before a softcap) is the sum of what the summands give (Elhage et al.
2021). A layer is told by its parts where they add up to what it adds, and attention by its heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from espalier.analyze import prompts, record, stream
from espalier.analyze.intervene import HEADS, changing, head_name
from espalier.analyze.prompts import Prompts
from espalier.analyze.views import Found, Rows, Seen, bars
from espalier.nn.attend import Attend
from espalier.nn.gpt import GPT
from espalier.nn.norm.layer import Layer
from espalier.nn.slots import Part
from espalier.nn.state import Pass

TOLERANCE = 1e-3  # of a layer's update: parts that miss it by more do not add up to it
ROUNDING = "rounding"
CONSTANT = "constant"  # what norm and head say of nothing

Parts = dict[str, Tensor]
"""summands of the stream (batch, time, d) by name"""


def look(seen: Seen) -> Found:
    pairs = prompts.chosen(seen)
    found = split(seen.model, pairs.clean)
    effects = {
        name: one[:, -1].double() for name, one in attribute(seen.model, found, pairs).items()
    }
    rows: Rows = [
        {"part": name, "answer": float(both[:, 0].mean()), "difference": _difference(both)}
        for name, both in effects.items()
    ]
    total = torch.stack(list(effects.values())).sum(0)
    with torch.no_grad():
        measured = float(pairs.difference(seen.model(pairs.clean)).double().mean())
    values = {row["part"]: row["difference"] for row in rows}
    return {
        "prompts": len(total),
        "sum": _difference(total),
        "logit_difference": measured,
        "rows": rows,
        "charts": [bars("difference", "Parts of the logit difference", values)],
    }


def _difference(both: Tensor) -> float:
    return float((both[:, 0] - both[:, 1]).mean())


class Split:
    """The stream of a pass over `ids`, and its summands."""

    def __init__(self, model: GPT, ids: Tensor):
        self.stream = stream.read(model, ids)
        self.last = next(reversed(self.stream.points.values()))
        self.parts: Parts = {}


@torch.no_grad()
def split(model: GPT, ids: Tensor) -> Split:
    """Summands that add up to what the trunk's norm reads."""
    found = Split(model, ids)
    said = _said(model, ids)
    points = found.stream.points
    before = points[stream.EMBED]
    found.parts[stream.EMBED] = before
    for call, into in found.stream.into.items():
        if into is not before and not torch.equal(into, before):
            found.parts[f"before {call}"] = into - before
        found.parts |= _layer(model, call, points[call] - into, said)
        before = points[call]
    if found.last is not before:
        found.parts[f"after {stream.STACK}"] = found.last - before
    found.parts[ROUNDING] = found.last - torch.stack(list(found.parts.values())).sum(0)
    return found


Said = dict[str, tuple[tuple[Any, ...], Tensor]]
"""by call of a module: its inputs and its output"""


def _said(model: GPT, ids: Tensor) -> Said:
    """Of what may write to the stream, call by call."""
    found: Said = {}

    def hear(path: str, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            found[path] = inputs, output

    chosen = [path for layer in stream.layers(model) for path in _writers(model, layer)]
    with record.listening(model, dict.fromkeys(chosen, hear)):
        model(ids)
    return found


def _writers(model: GPT, layer: str) -> dict[str, Part]:
    """What of a layer may write to the stream: attention, ffn, norms behind them, neurons."""
    named = dict(model.get_submodule(layer).named_modules())
    return {
        f"{layer}.{name}": part
        for name, part in named.items()
        if isinstance(part, Part)
        and (name in ("attention", "ffn", "peri_1", "peri_2") or _is_neuron(name))
    }


def _is_neuron(name: str) -> bool:
    first, _, number = name.partition(".")
    return first == "neurons" and number.isdigit()


def _layer(model: GPT, call: str, update: Tensor, said: Said) -> Parts:
    """A layer's update by parts; whole where they do not add up to it."""
    layer, mark, number = call.partition("#")
    ways = [("attention", "ffn"), ("peri_1", "peri_2"), ("neurons.",)]
    for way in ways:
        parts = {
            path: _share(model, layer, path) * output
            for path, (_, output) in said.items()
            if path.startswith(f"{layer}.") and path.partition("#")[1:] == (mark, number)
            if path.removeprefix(f"{layer}.").startswith(way)
        }
        rest = update - torch.stack([*parts.values(), torch.zeros_like(update)]).sum(0)
        if parts and float(rest.norm()) <= TOLERANCE * float(update.norm()):
            split: Parts = {}
            for path, part in parts.items():
                split |= _heads(model, path, part, said) or {path: part}
            return split
    return {call: update}


def _share(model: GPT, layer: str, path: str) -> Tensor | float:
    """What a writer's output is multiplied with: a neuron's share in a competition, else 1."""
    competition = getattr(model.get_submodule(layer), "competition", None)
    name = path.partition("#")[0].removeprefix(f"{layer}.neurons.")
    if competition is None or not name.isdigit():
        return 1.0
    return torch.softmax(competition.detach(), 0)[int(name)]


def _heads(model: GPT, call: str, whole: Tensor, said: Said) -> Parts:
    """An attention's output by heads; nothing where they do not add up, as in no linear way out.

    Each is the attention's output with this head alone, less its output with none, which is told
    as `PATH rest`: biases.
    """
    path = call.partition("#")[0]
    part = model.get_submodule(path)
    inner = [p for p in stream.mixers(model) if p == path or p.startswith(f"{path}.")]
    if len(inner) != 1 or not path.endswith("attention"):
        return {}
    attend = model.get_submodule(inner[0])
    assert isinstance(attend, Attend)
    inputs = said[call][0]

    def alone(head: int | None) -> Tensor:
        def change(site: str, x: Tensor) -> Tensor:
            kept = torch.zeros_like(x)
            if head is not None:
                kept[:, :, head] = x[:, :, head]
            return kept

        with changing(model, {inner[0] + HEADS: change}):
            y: Tensor = part(*inputs)
        return y

    none = alone(None)
    name = inner[0] + call.removeprefix(path)
    parts = {head_name(name, head): alone(head) - none for head in range(attend.heads)}
    rest = whole - torch.stack(list(parts.values())).sum(0)
    if float((rest - none).norm()) > TOLERANCE * float(whole.norm()):
        return {}
    return parts | {f"{call} rest": rest}


def attribute(model: GPT, found: Split, pairs: Prompts) -> dict[str, Tensor]:
    """By summand, and `constant`: (batch, time, 2), its part of the logits of answer and wrong."""
    wanted = torch.stack([pairs.answer, pairs.wrong], 1)
    rows = directions(model, found.last, wanted)
    through, constant = frozen(model.trunk.norm, found.last, found.stream.now)
    linear = {
        name: torch.einsum("btd,bnd->btn", through(part), rows)
        for name, part in found.parts.items()
    }
    with torch.no_grad():
        nothing = model.head(found.last.new_zeros(1, found.last.shape[-1]))[0]
    own = torch.einsum("btd,bnd->btn", constant, rows) + nothing[wanted][:, None]
    return linear | {CONSTANT: own}


def directions(model: GPT, like: Tensor, tokens: Tensor) -> Tensor:
    """(batch, n, d): how a token's logit changes with what the head reads, before a softcap.

    The head's gradient at zero, where a cap's slope is 1.
    """
    zero = like.new_zeros(like.shape[-1]).requires_grad_()
    with torch.enable_grad():
        logits = model.head(zero[None])[0]
        known = {
            token: torch.autograd.grad(logits[token], zero, retain_graph=True)[0]
            for token in sorted(set(tokens.flatten().tolist()))
        }
    return torch.stack([torch.stack([known[t] for t in row]) for row in tokens.tolist()])


@torch.no_grad()
def frozen(norm: Part | None, x: Tensor, now: Pass) -> tuple[Any, Tensor]:
    """The norm at `x` as a linear map and a constant: norm(x) = map(x) + constant.

    Its scale is held: of a layer norm, gain / deviation of what is centred; of any other, feature
    by feature (norm(x) - norm(0)) / x, which of an RMS norm is gain / rms and of an elementwise
    map the slope of its secant.
    """
    if norm is None:
        return (lambda part: part), torch.zeros_like(x)
    constant = norm(torch.zeros_like(x), now)
    mean = (lambda part: part.mean(-1, keepdim=True)) if isinstance(norm, Layer) else (lambda _: 0)
    centred = x - mean(x)
    scale = (norm(x, now) - constant) / torch.where(centred == 0, 1.0, centred)
    return (lambda part: (part - mean(part)) * scale), constant
