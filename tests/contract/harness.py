"""Every part of every slot under `espalier/nn`, found by name, each inside a tiny model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from espalier.config import PartConfig, decode, encode, names, resolve
from espalier.native import training
from espalier.nn import slots
from espalier.nn.gpt import GPT, GPTConfig, make
from espalier.nn.slots import Part
from espalier.nn.state import Pass, allocate
from espalier.tree import merge, override

BASE = {
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 4,
    "block_size": 32,
    "vocab_size": 50,
    "init": {"std": 0.2},
}
TIME = 20
IDS = torch.randint(50, (3, TIME), generator=torch.Generator().manual_seed(1))

# Corners where two parts meet.
TOGETHER: dict[str, dict[str, Any]] = {
    "grouped-window-rotary": {
        "position": {"name": "rotary", "fraction": 0.5},
        "block": {"attention": {"n_kv_head": 2, "window": 5, "qk_norm": "rms"}, "ffn": "glu"},
    },
    "alibi-window": {"position": "alibi", "block": {"attention": {"window": 5, "n_kv_head": 1}}},
    "alibi-softcap": {"position": "alibi", "block": {"attention": {"softcap": 2.0}}},
    "fire-off-by-one": {
        "position": {"name": "fire", "layers": "each", "threshold": 4},
        "block": {"attention": {"off_by_one": "head", "n_kv_head": 2, "window": 5}},
    },
    "mla-rotary": {"position": "rotary", "block": {"attention": {"name": "mla", "window": 5}}},
    "infinite-rotary": {
        "position": "rotary",
        "block": {"attention": {"name": "infinite", "n_head": 3, "qk_width": 5, "v_width": 12}},
    },
    "hybrid": {
        "n_layer": 3,
        "position": "rotary",
        "cycle": [{"block": {"attention": "ssm"}}, {"block": {"attention": {"window": 5}}}],
    },
    "layers-that-differ": {
        "n_layer": 3,
        "layers": [{"block": {"attention": {"window": 3}}}, {"repeat": 2, "block": "parallel"}],
    },
    "cortical-twice": {
        "block": {"name": "cortical", "neurons": [4, 2], "nmda": True},
        "stack": {"name": "feedback", "passes": 2, "links": [[1, 0]]},
    },
    "without-bias": {"bias": False, "norm": "rms", "head": {"name": "untied", "softcap": 3.0}},
}


@dataclass(frozen=True)
class Case:
    """One part in one model."""

    label: str
    model: Mapping[str, Any] = field(repr=False)
    native: bool = False  # with our own kernels instead of torch's

    def config(self) -> GPTConfig:
        return decode(GPTConfig, merge(encode(decode(GPTConfig, BASE)), self.model))

    def build(self, seed: int = 0) -> GPT:
        return make(self.config(), seed)

    def perturbed(self) -> GPT:
        """With no tensor left at a special start (zero, one), so that all of them matter."""
        model = self.build()
        noise = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=noise) * 0.1)
        return model.double() if rounds(model) else model


def slot_bases() -> list[type[PartConfig]]:
    return [
        kind
        for kind in vars(slots).values()
        if isinstance(kind, type) and issubclass(kind, PartConfig) and kind.places
    ]


def cases() -> list[Case]:
    found = [Case(label, model) for label, model in TOGETHER.items()]
    for base in slot_bases():
        kind = base.slot.rpartition(".")[2]
        for name in names(base):
            config = decode_part(base, name)
            for fields in ({}, *config.variants):
                what = ",".join(f"{key}={value}" for key, value in fields.items())
                part = {"name": name, **config.small, **fields}
                found.append(Case(f"{kind}.{name}({what})", place(base, part)))
    return found + [
        replace(case, label=f"{case.label} native", native=True)
        for case in found
        if training.prepare()
        and case.label.startswith(
            ("attention.", "position.rotary", "norm.rms", "activation.relu2", "grouped-window")
        )
    ]


def decode_part(base: type[PartConfig], name: str) -> PartConfig:
    return resolve(base, name)()


def place(base: type[PartConfig], part: dict[str, Any]) -> dict[str, Any]:
    tree = encode(decode(GPTConfig, BASE))
    for path in base.places:
        tree = override(tree, path, part)
    return tree


def exemptions(model: torch.nn.Module) -> dict[str, str]:
    """Laws that parts of this model say they cannot keep, with their reasons."""
    return {
        law: f"{type(part).__name__}: {reason}"
        for part in model.modules()
        if isinstance(part, Part)
        for law, reason in part.exempt.items()
    }


def rounds(model: torch.nn.Module) -> bool:
    return any(isinstance(part, Part) and part.rounds for part in model.modules())


def same(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


@torch.no_grad()
def decodes(model: GPT) -> None:
    """A prompt at once, the rest token by token, against one full pass."""
    full, states, out, start = model(IDS), allocate(model, 3, TIME, "cpu"), [], 0
    for count in [TIME - 6] + [1] * 6:
        positions = torch.arange(start, start + count).expand(3, -1)
        now = Pass(positions, states, TIME, fresh=start == 0)
        out.append(model(IDS[:, start : start + count], now))
        start += count
    same(torch.cat(out, 1), full, atol=3e-5)
