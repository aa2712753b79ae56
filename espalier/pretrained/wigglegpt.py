"""WiggleGPT's ckpt.pt, versions 1 (dendrites) and 2 (none): nanoGPT's file with other mlps.

Version 3 changes norms and positions too, and its rotation does nothing; it is not read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.pretrained.nanogpt import LAYER, TABLE, TRUNK, Dialect, tensors
from espalier.pretrained.table import Row, both

KEYS = frozenset({"use_bio_mlp", "bio_compartments", "bio_threshold"})
OURS, THEIRS = f"{TRUNK}.ffn", f"{LAYER}.mlp"


def _wave(ours: str, theirs: str) -> list[Row]:
    return [
        Row(f"{OURS}.{ours}.{name}", f"{THEIRS}.{theirs}.{name}")
        for name in ("omega", "phi", "baseline")
    ]


SHARED = [
    *(row for row in TABLE if ".ffn." not in row.ours),
    *both(f"{OURS}.event.gate", f"{THEIRS}.sparse_gate.gate"),
    *both(f"{OURS}.event.transform", f"{THEIRS}.sparse_gate.transform"),
    *_wave("event.activation", "sparse_gate.activation"),
    *both(f"{OURS}.down", f"{THEIRS}.c_proj"),
]
VERSION_1 = [
    *SHARED,
    *both(f"{OURS}.up.branches", f"{THEIRS}.dendritic.compartments"),
    Row(f"{OURS}.up.coupling.weight", f"{THEIRS}.dendritic.lateral"),
    *both(f"{OURS}.up.soma", f"{THEIRS}.dendritic.soma"),
    *_wave("activation", "dendritic.soma_activation"),
]
VERSION_2 = [
    *SHARED,
    *both(f"{OURS}.up", f"{THEIRS}.c_fc"),
    *_wave("activation", "oscillating"),
]
COMPARTMENT = re.compile(r"(.*\.dendritic\.compartments)\.\d+\.0\.(weight|bias)")


def dialect(whole: Mapping[str, Any], file: Path) -> Dialect | None:
    """How to read a loaded checkpoint; None where it is not WiggleGPT's."""
    args = whole["model_args"]
    if "use_bio_mlp" not in args:
        return None
    if not args["use_bio_mlp"]:
        return Dialect("wigglegpt", TABLE, KEYS)
    theirs = tensors(whole["model"], file)
    ffn: dict[str, Any] = {"threshold": args.get("bio_threshold", 0.3)}
    if not any(".dendritic." in name for name in theirs):
        return Dialect("wigglegpt", VERSION_2, KEYS, _model({"name": "sparse_event"} | ffn))
    lateral = any(name.endswith(".lateral") for name in theirs)
    ffn |= {
        "name": "wiggle",
        "compartments": args.get("bio_compartments", 4),
        "lateral": "dense" if lateral else "off",
    }
    return Dialect("wigglegpt", VERSION_1, KEYS, _model(ffn), _join)


def _model(ffn: Mapping[str, Any]) -> dict[str, Any]:
    return {"block": {"name": "prenorm", "ffn": ffn}}


def _join(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One weight for all compartments of a layer, one below the other."""
    found: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in theirs.items():
        match = COMPARTMENT.fullmatch(name)
        if match:
            parts.setdefault(f"{match[1]}.{match[2]}", []).append(tensor)
        else:
            found[name] = tensor
    return found | {name: torch.cat(tensors) for name, tensors in parts.items()}
