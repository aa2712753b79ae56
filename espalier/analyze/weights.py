"""Statistics of each weight tensor of a checkpoint, and how far two checkpoints are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.analyze.activations import COMPARED, Figures
from espalier.analyze.moments import summary


def figures(held: Mapping[str, Tensor]) -> Figures:
    """Of each tensor of numbers with a fraction; `norm` is the root of the sum of squares."""
    found = {}
    for name, tensor in held.items():
        if tensor.is_floating_point() and tensor.numel():
            one: dict[str, Any] = summary([tensor]).figures()
            norm = float(torch.linalg.vector_norm(tensor.double()))
            found[name] = {"shape": list(tensor.shape), **one, "norm": norm}
    return found


def differences(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """By name, of tensors of one shape: figures minus figures, distance and cosine.

    `distance` is |mine - theirs| / |theirs|.
    """
    mine = {n: t for n, t in mine.items() if n in theirs and t.shape == theirs[n].shape}
    ours, others = figures(mine), figures({n: theirs[n] for n in mine})
    found = {}
    for name, one in ours.items():
        a, b = mine[name].double().flatten(), theirs[name].double().flatten()
        norm = float(b.norm())
        found[name] = {
            **{key: one[key] - others[name][key] for key in COMPARED},
            "distance": float((a - b).norm()) / norm if norm else math.nan,
            "cosine": float(F.cosine_similarity(a, b, dim=0)),
        }
    return found
