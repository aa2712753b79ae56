"""A model's tensors with their zeros left out: a bit for each weight, and the weights there are.

The bytes are those of a real safetensors file of this layout; an ordinary run keeps its zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

MASK, VALUES, SHAPE = ".mask", ".values", ".shape"


def pack(tensors: Mapping[str, Tensor], sparse: Iterable[str]) -> dict[str, Tensor]:
    """`tensors` with those named in `sparse` as a bit mask and the values that are not zero."""
    packed = dict(tensors)
    for name in sparse:
        dense = packed.pop(name).detach().cpu()
        there = dense != 0
        packed[name + MASK] = torch.from_numpy(np.packbits(there.numpy()))
        packed[name + VALUES] = dense[there]
        packed[name + SHAPE] = torch.tensor(dense.shape)
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` was given."""
    names = [name.removesuffix(MASK) for name in packed if name.endswith(MASK)]
    kept = {name + end for name in names for end in (MASK, VALUES, SHAPE)}
    dense = {name: tensor for name, tensor in packed.items() if name not in kept}
    for name in names:
        shape, values = packed[name + SHAPE].tolist(), packed[name + VALUES]
        count = int(np.prod(shape))
        bits = np.unpackbits(packed[name + MASK].numpy(), count=count).astype(bool)
        whole = values.new_zeros(count)
        whole[torch.from_numpy(bits)] = values
        dense[name] = whole.view(shape)
    return dense


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the safetensors file."""
    return len(save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}))
