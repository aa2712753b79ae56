"""Logits in float64, from the formulas of GPT-2 and nothing of this package."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tests.pretrained.layouts import ARGS

Weights = Mapping[str, Tensor]


def linear(w: Weights, x: Tensor, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def norm(w: Weights, x: Tensor, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)


def mlp(w: Weights, x: Tensor, name: str) -> Tensor:
    hidden = linear(w, x, f"{name}.c_fc")
    return linear(w, hidden / 2 * (1 + torch.erf(hidden / math.sqrt(2))), f"{name}.c_proj")


def attention(w: Weights, x: Tensor, name: str) -> Tensor:
    heads, width = ARGS["n_head"], ARGS["n_embd"] // ARGS["n_head"]
    q, k, v = linear(w, x, f"{name}.c_attn").chunk(3, 1)
    mixed = torch.zeros_like(x)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for t in range(len(x)):
            scores = k[: t + 1, part] @ q[t, part] / math.sqrt(width)
            mixed[t, part] = scores.softmax(0) @ v[: t + 1, part]
    return linear(w, mixed, f"{name}.c_proj")


def logits(
    tensors: Weights, ids: list[int], ffn: Callable[[Weights, Tensor, str], Tensor] = mlp
) -> Tensor:
    """(tokens, vocabulary) of nanoGPT's layout; `ffn` works with the tensors below a name."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    for i in range(ARGS["n_layer"]):
        layer = f"transformer.h.{i}"
        x = x + attention(w, norm(w, x, f"{layer}.ln_1"), f"{layer}.attn")
        x = x + ffn(w, norm(w, x, f"{layer}.ln_2"), f"{layer}.mlp")
    return norm(w, x, "transformer.ln_f") @ w["lm_head.weight"].T
