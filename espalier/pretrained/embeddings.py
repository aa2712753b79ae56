"""Embedding tables of a checkpoint: out to .npy and back, and as a product of two narrow ones.

Johnson and Lindenstrauss (1984): k = 4 ln(m) / (e^2/2 - e^3/3) random directions keep all distances
between m points to within a factor of 1 +- e (of squares; S. Dasgupta, A. Gupta 2003), whatever the
width was before.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from espalier.config import refine
from espalier.durable import write_asked
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig

Projection = Literal["gaussian", "sign", "sparse", "srht", "qr"]
Method = Projection | Literal["svd"]
TABLE = "trunk.embed.weight"
SEEN = 1000  # tokens between which distances are measured: half a million pairs

Weights = Mapping[str, Tensor]


def dimension(points: int, error: float) -> int:
    """Directions that keep the squared distances of so many points to within 1 +- error."""
    return math.ceil(4 * math.log(points) / (error**2 / 2 - error**3 / 3))


def projection(kind: Projection, width: int, narrow: int, seed: int) -> Float[Tensor, "narrow n"]:
    """A random map that keeps the square of a length on average.

    Entries normal, +-1, or 0 with probability 2/3 (Achlioptas 2003); a Hadamard transform of random
    signs of which some rows are kept (Ailon, Chazelle 2009); or `narrow` orthogonal directions.
    """
    _require(narrow, width)
    draw = torch.Generator().manual_seed(seed)
    found: Tensor
    if kind == "gaussian":
        found = torch.randn(narrow, width, generator=draw)
    elif kind == "sign":
        found = _signs((narrow, width), draw)
    elif kind == "sparse":
        kept = torch.rand(narrow, width, generator=draw) < 1 / 3
        found = _signs((narrow, width), draw) * kept * 3**0.5
    elif kind == "srht":
        signs = _signs((width,), draw)
        rows = torch.randperm(1 << (width - 1).bit_length(), generator=draw)[:narrow]
        found = _hadamard(width)[rows] * signs
    else:
        found = torch.linalg.qr(torch.randn(width, narrow, generator=draw))[0].T * math.sqrt(width)
    return found / math.sqrt(narrow)


def factorise(
    weights: Weights, config: GPTConfig, method: Method, narrow: int, seed: int = 0
) -> tuple[dict[str, Tensor], GPTConfig]:
    """The same model with its table E as (E R^T) R, of `narrow` columns; the rest stays.

    R is a projection, or for `svd` the first right singular vectors of E: of all products of this
    width the nearest to E (Eckart and Young 1936), and no draw. Raises UserError for an embedding
    that is no plain table.
    """
    if config.embed.name != "learned":
        raise UserError(
            f"model.embed is {config.embed.name}; only a learned table can be made narrower"
        )
    table = weights[TABLE]
    if method == "svd":
        r = _singular(table, narrow)
    else:
        r = projection(method, table.shape[1], narrow, seed).to(table)
    changed = {**weights, TABLE: table @ r.T, "trunk.embed.up": r.T.contiguous()}
    embed = {"name": "factorised", "width": narrow}
    return changed, refine(config, {"embed": embed}, "model")


def _singular(table: Tensor, narrow: int) -> Float[Tensor, "narrow n"]:
    """From the eigenvectors of E^T E, which is small however many tokens there are."""
    _require(narrow, table.shape[1])
    vectors: Tensor = torch.linalg.eigh(table.double().T @ table.double())[1]
    return vectors[:, -narrow:].flip(1).T.to(table)


def distances(table: Tensor, narrow: Tensor) -> tuple[float, float, float]:
    """Least, mean and largest squared distance in `narrow`, over the one in `table`.

    Between pairs of at most `SEEN` tokens, evenly spread; pairs that are alike are left out.
    """
    rows = torch.linspace(0, len(table) - 1, min(SEEN, len(table))).long()
    before, after = (torch.pdist(one[rows].double()).square() for one in (table, narrow))
    apart = before > 0
    ratio = after[apart] / before[apart]
    return ratio.min().item(), ratio.mean().item(), ratio.max().item()


def save_table(weights: Weights, file: Path) -> None:
    """Write the table (vocabulary, width) as .npy, fp32."""
    held = io.BytesIO()
    np.save(held, _table(weights).detach().float().cpu().numpy(), allow_pickle=False)
    write_asked(file, held.getvalue())


def load_table(weights: Weights, file: Path) -> dict[str, Tensor]:
    """The same weights with the table of a .npy file. Raises UserError where it does not fit."""
    try:
        found = torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no table: {error}") from None
    want = _table(weights)
    if found.shape != want.shape or not found.is_floating_point():
        got = f"{found.dtype} {list(found.shape)}".removeprefix("torch.")
        raise UserError(f"{file} holds {got}; the model's table is {list(want.shape)}, of floats")
    if not found.isfinite().all():
        raise UserError(f"{file} holds NaN or infinity")
    return {**weights, TABLE: found.to(want)}


def _require(narrow: int, width: int) -> None:
    if not 1 <= narrow <= width:
        raise UserError(f"a projection from {width} to {narrow} columns: take 1 to {width}")


def _table(weights: Weights) -> Tensor:
    if TABLE not in weights:
        raise UserError(f"the checkpoint has no table {TABLE}")
    return weights[TABLE]


def _signs(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=draw).mul(2).sub(1).float()


def _hadamard(width: int) -> Float[Tensor, "power width"]:
    """Sylvester's matrix of the next power of two, its first `width` columns."""
    found = torch.ones(1, 1)
    while len(found) < width:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found[:, :width]
