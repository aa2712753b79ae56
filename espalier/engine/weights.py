"""A model made ready for generation: the same parts, with its big matrices stored small.

bf16 keeps 8 of the 24 bits of a weight's significand; int8 is symmetric with a scale for each
output. Activations, norms, biases and positions stay in fp32; keys and values are remembered in
bf16. The model that is given stays as it is.

A copy has hooks of its own. In float32 it shares the model's tensors, where they need no padding;
in bf16 and int8 only large ones that it cannot repack (the experts of a mixture, a long table of
positions). What is done to a shared tensor in place reaches both: pack anew after it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from espalier.engine.sampling import Sampling
from espalier.native import attention, build, cached, gathered, matvec
from espalier.nn.embed.learned import Learned
from espalier.nn.ffn.sparse_event import Gathered
from espalier.nn.gpt import GPT
from espalier.nn.head.tied import Tied, cap
from espalier.nn.head.untied import Untied
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import Embed, Part
from espalier.nn.state import KV, Frame, Pass, allocate, leaves

Weights = Literal["float32", "bf16", "int8"]
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}


LARGE = 2**24  # parameters from which the bytes of the weights, not the calls, take the time
SMALL = 2**20  # numbers of a tensor up to which a copy of its own costs nothing that matters


def fitting(model: GPT, sampling: Sampling) -> Weights:
    """The default: bf16 for a model that is bound by memory on a CPU, else float32.

    Measured (docs/sampling.md): bf16 moves the perplexity of a trained model by 0.002 %. Drawing
    what nanoGPT draws takes float32.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    on_cpu = next(model.parameters()).device.type == "cpu"
    return "bf16" if on_cpu and count >= LARGE and sampling.rng == "rows" else "float32"


class PackedDense(Part):
    """`Dense` over packed weights: x W^T + b."""

    def __init__(self, packed: matvec.Packed):
        super().__init__()
        self.product = matvec.Linear(packed)
        self.weight = nn.Parameter(packed.weights, requires_grad=False)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        return self.product(x)


class PackedTable(Embed):
    """`Learned` over a packed table, which a tied head shares."""

    def __init__(self, packed: matvec.Packed):
        super().__init__()
        self.product = matvec.Linear(packed)
        self.weight = nn.Parameter(packed.weights, requires_grad=False)

    def forward(self, ids: Int[Tensor, "batch time"], now: Pass) -> Float[Tensor, "batch time d"]:
        return self.product.packed.rows(ids)

    def logits(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return self.product(hidden)


class PackedHead(Part):
    """`Untied` over packed weights."""

    def __init__(self, packed: matvec.Packed, softcap: float | None):
        super().__init__()
        self.product, self.softcap = matvec.Linear(packed), softcap
        self.weight = nn.Parameter(packed.weights, requires_grad=False)

    def forward(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        return cap(self.product(hidden), self.softcap)


def pack(model: GPT, weights: Weights) -> GPT:
    """A copy of the model whose dense maps, table and head hold such weights.

    Parts it does not know keep their own. Native kernels are built on the way where they can be;
    without them torch does the work. For generation only: it has no gradients for what is packed.
    """
    build.prepare(matvec, cached, attention, gathered)
    known: dict[nn.Module, nn.Module] = {}
    made = _copy(model, DTYPES[weights], known)
    assert isinstance(made, GPT)
    return made.eval()


def empty_states(model: GPT, rows: int, length: int, device: torch.device) -> Frame:
    """Empty states for the model; a packed one of low precision keeps keys and values in bf16."""
    frame = allocate(model, rows, length, device)
    if _precision(model) is not torch.float32:
        for state in leaves(frame):
            if isinstance(state, KV) and state.keys.dtype == torch.float32:
                state.keys, state.values = state.keys.bfloat16(), state.values.bfloat16()
    return frame


def _precision(model: GPT) -> torch.dtype:
    packed = (m for m in model.modules() if isinstance(m, (PackedDense, PackedTable, PackedHead)))
    return next((part.product.packed.weights.dtype for part in packed), torch.float32)


def _copy(module: nn.Module, dtype: torch.dtype, known: dict[nn.Module, nn.Module]) -> nn.Module:
    """Part by part; one that stands in several places is copied once."""
    if module in known:
        return known[module]
    given, made = module, module
    module = module.settled() if isinstance(module, Part) else module
    if type(module) is Dense:
        made = PackedDense(matvec.pack(module.weight, _own(module.bias, dtype), dtype))
    elif type(module) is Gathered:  # int8 has no such kernel: bf16 in its place
        made = module.to_dtype(torch.bfloat16 if dtype == torch.int8 else dtype)
    elif type(module) is Learned:
        made = PackedTable(matvec.pack(module.weight, None, dtype))
    elif type(module) is Untied:
        made = PackedHead(matvec.pack(module.weight, None, dtype), module.softcap)
    elif type(module) is Tied:
        owner = _copy(module.owner[0], dtype, known)
        assert isinstance(owner, Embed)
        made = Tied(owner, module.softcap)
    else:
        made = copy.copy(module)
        for name, value in vars(module).items():
            if isinstance(value, dict):  # hooks, parameters, buffers
                own = copy.copy(value)
                own.update({key: _own(item, dtype) for key, item in value.items()})
                setattr(made, name, own)
        made._modules = {
            name: None if child is None else _copy(child, dtype, known)
            for name, child in module._modules.items()
        }
    known[given] = made
    return made


def _own(item: Any, dtype: torch.dtype) -> Any:
    """A small tensor's copy for weights that are repacked; anything else as it is."""
    if not isinstance(item, Tensor) or dtype == torch.float32 or item.numel() > SMALL:
        return item
    made = item.detach().clone()
    return nn.Parameter(made, item.requires_grad) if isinstance(item, nn.Parameter) else made
