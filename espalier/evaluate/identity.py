"""Which very model a result is of."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from espalier.nn.gpt import GPT
from espalier.train.checkpoint import tensors


def identity(model: GPT, name: str) -> dict[str, Any]:
    """Its name, its size, and the SHA-256 of its weights by name."""
    found = hashlib.sha256()
    for key, tensor in sorted(tensors(model).items()):
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_sha256": found.hexdigest(),
    }
