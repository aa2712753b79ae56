"""How much of a dendritic map's coupling is more than another way to write its soma."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from espalier.nn.ffn.dendritic import Coupling, Dendritic


def figures(part: Dendritic) -> dict[str, Any] | None:
    """None where the compartments are not coupled.

    `redundant`: parameters that add no function to what the others can compute. The soma of u and
    its linear coupling v = L u is one linear map of u alone, so L and the soma's half for v are;
    of a non-linear coupling none is.

    `diagonal`: the share of L's energy (sum of squares) on its diagonal, which is the share of the
    coupling's output that a compartment hears from itself, for compartments alike and uncorrelated.
    `by_coupling`: |folded - own| / |folded|, what the coupling adds to the soma's map of u.
    `effective_rank`: of that folded map, exp of the entropy of its singular values (Roy, Vetterli
    2007), of at most `rank`.
    """
    coupling = part.coupling
    if coupling is None:
        return None
    lateral = coupling.matrix().detach().double()
    energy = lateral.square().sum()
    found: dict[str, Any] = {
        "compartments": len(lateral),
        "linear": coupling.linear,
        "redundant": redundant(part, coupling),
        "parameters": sum(p.numel() for p in part.parameters()),
        "diagonal": float(lateral.diagonal().square().sum() / energy) if energy else 1.0,
        "lateral": lateral.tolist(),
    }
    if coupling.linear:
        folded, half = part.folded().detach().float(), part.soma.weight.shape[1] // 2
        own = part.soma.weight[:, :half].detach().float()
        found["by_coupling"] = float((folded - own).norm() / folded.norm())
        found["effective_rank"], found["rank"] = effective_rank(folded), min(folded.shape)
    return found


def redundant(part: Dendritic, coupling: Coupling) -> int:
    """Parameters without which the part can compute the same functions."""
    if not coupling.linear:
        return 0
    return coupling.weight.numel() + part.soma.weight.numel() // 2


def effective_rank(matrix: Tensor) -> float:
    """exp(H(p)), p the singular values over their sum: n for n equal ones, 1 for a single one."""
    values = torch.linalg.svdvals(matrix)
    share = values / values.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))
