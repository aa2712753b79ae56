"""Parts together: every two of different slots that matter most stand in one model at least.

A covering array of strength two, made greedily and always alike: each model takes, slot after slot,
the choice that meets most others for the first time. Each model is built, trained for three steps
and decoded token by token. What cannot go together stands in `REFUSED`, and is refused with both
names when a model is built.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from espalier.config import decode, encode
from espalier.errors import ConfigError
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.state import at
from espalier.tree import merge, override
from tests.contract.harness import BASE, IDS, decodes, rounds

Choice = tuple[str, str]  # a slot, and what stands in it

CHOICES: dict[str, dict[str, Any]] = {
    "score": {
        "softmax": {},
        "softermax": {},
        "consmax": {},
        "consmax_v2": {},
        "polymax": {},
        "exppolymax": {},
        "strongermax": {},
        "sigsoftmax": {},
        "relumax": {},
        "softplus": {},
    },
    "attention": {
        "causal": {},
        "grouped": {"name": "causal", "n_kv_head": 2},
        "window": {"name": "causal", "window": 5},
        "qk_norm": {
            "name": "causal",
            "qk_norm": {"name": "hypersphere", "radius": 1.0},
            "qk_scale": "learned",
        },
        "softcap": {"name": "causal", "softcap": 5.0},
        "off_by_one": {"name": "causal", "off_by_one": "head"},
        "infinite": {},
        "mla": {},
        "linear": {},
        "ssm": {},
    },
    "norm": {
        "layer": {},
        "rms": {},
        "partial_rms": {},
        "k_rms": {},
        "hypersphere": {},
        "dyt": {},
    },
    "position": {
        "learned": {},
        "none": {},
        "rotary": {},
        "partial": {"name": "rotary", "fraction": 0.5},
        "fire": {},
    },
    "activation": {"gelu": {}, "relu": {}, "silu": {}, "relu2": {}, "softplus": {}},
    "ffn": {"mlp": {}, "glu": {}, "dual_path": {}, "moe": {}},
    "block": {
        "prenorm": {},
        "postnorm": {},
        "parallel": {},
        "peri": {},
        "sandwich": {"name": "peri", "at": ["pre", "peri", "post"]},
    },
    "linear": {"dense": {}, "bitnet": {}, "fake_quantised": {}},
    "stack": {
        "plain": {},
        "size": {"name": "shared"},
        "sequence": {"name": "shared", "block": {"sequence": 2}},
        "mirror": {"name": "shared", "block": None, "attention": {"mirror": True}},
        "unet": {},
        "value_embeddings": {},
    },
    "embed": {"learned": {}, "factorised": {}},
    "head": {"tied": {"name": "tied", "softcap": 15.0}, "untied": {}},
}
PLACES = {
    "block": "block",
    "norm": "block.norm",
    "attention": "block.attention",
    "ffn": "block.ffn",
    "score": "block.attention.score",
    "linear": "block.ffn.linear",
    "activation": "block.ffn.activation",
    "position": "position",
    "stack": "stack",
    "embed": "embed",
    "head": "head",
}


def _refused() -> Iterator[tuple[Choice, Choice, str]]:
    """Two choices, and what the refusal says of them."""
    for score in CHOICES["score"]:  # these make no scores to normalise
        for attention in ("linear", "ssm"):
            yield ("score", score), ("attention", attention), f"score {attention}"
        if score != "softmax":
            word = score.replace("_", "")
            yield ("score", score), ("attention", "off_by_one"), f"off_by_one {word}"
    for attention in ("linear", "ssm"):  # these ask no position to turn or bias anything
        for position, name in {"rotary": "rotary", "partial": "rotary", "fire": "fire"}.items():
            yield ("attention", attention), ("position", position), f"{name} {attention}"
    for attention in ("linear", "ssm", "mla"):
        said = f"value_embeddings {attention}"
        yield ("attention", attention), ("stack", "value_embeddings"), said
    for linear in CHOICES["linear"]:  # experts are matrices on top of each other
        yield ("ffn", "moe"), ("linear", linear), "moe linear"


REFUSED = {frozenset((one, other)): said for one, other, said in _refused()}


def together(one: Choice, other: Choice) -> bool:
    return frozenset((one, other)) not in REFUSED


def models() -> list[dict[str, str]]:
    """Choices for every slot, until each pair that can go together has met."""
    left = {
        frozenset(pair)
        for a, b in combinations(CHOICES, 2)
        for pair in ((one, other) for one in _of(a) for other in _of(b))
        if together(*pair)
    }
    found = []
    while left:
        first = min(left, key=sorted)
        row: dict[str, str] = dict(first)
        for slot in CHOICES:
            fitting = [] if slot in row else list(_fitting(slot, row))
            if fitting:
                row[slot] = max(fitting, key=lambda name: _new(slot, name, row, left))
        left -= {frozenset(pair) for pair in combinations(row.items(), 2)}
        found.append({slot: row[slot] for slot in CHOICES if slot in row})
    return found


def _of(slot: str) -> list[Choice]:
    return [(slot, name) for name in CHOICES[slot]]


def _fitting(slot: str, row: dict[str, str]) -> Iterator[str]:
    for name in CHOICES[slot]:
        if all(together((slot, name), other) for other in row.items()):
            yield name


def _new(slot: str, name: str, row: dict[str, str], left: set[frozenset[Choice]]) -> int:
    return sum(frozenset(((slot, name), other)) in left for other in row.items())


def config(row: dict[str, str]) -> GPTConfig:
    """The model of a row; slots that it leaves out have their defaults."""
    tree = encode(decode(GPTConfig, merge(BASE, {"n_layer": 4})))
    for slot, path in PLACES.items():
        if slot in row:
            fields = CHOICES[slot][row[slot]]
            tree = override(tree, path, {"name": row[slot], **fields})
            tree = encode(decode(GPTConfig, tree))
    return decode(GPTConfig, tree)


def label(row: dict[str, str]) -> str:
    return "-".join(row.values())


@pytest.mark.parametrize("row", models(), ids=label)
def test_parts_work_together(row: dict[str, str]) -> None:
    model = make(config(row), 0)
    _train(model)
    decodes(model.double().eval() if rounds(model) else model.eval())


def _train(model: GPT) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        now = at(IDS)
        logits = model(IDS, now)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + sum(now.losses.values())).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


def test_every_pair_has_met() -> None:
    met = {frozenset(pair) for row in models() for pair in combinations(row.items(), 2)}
    for a, b in combinations(CHOICES, 2):
        for pair in ((one, other) for one in _of(a) for other in _of(b)):
            assert (frozenset(pair) in met) == together(*pair)


def named(given: frozenset[Choice] | str) -> str:
    """The same on every run: a set has no order of its own."""
    return given if isinstance(given, str) else "-".join(part for _, part in sorted(given))


@pytest.mark.parametrize(("pair", "said"), REFUSED.items(), ids=named)
def test_what_cannot_go_together_is_refused_by_name(pair: frozenset[Choice], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(dict(pair)).build()
    for word in said.split():
        assert word in str(error.value)
