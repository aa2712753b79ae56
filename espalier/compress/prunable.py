"""What may be pruned: one rule by role for every model, never by a parameter's name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor, nn

from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.slots import roles, unused
from espalier.nn.steered import Steered

RULE = "matrices in the stack that a pass reads, by role; no biases, norms, embeddings, heads"
TABLES = ("head", "embedding")


def prunable(model: GPT, include: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """Matrices inside the stack, and the tables in `include` ("head", "embedding").

    Not those that no pass reads: taking them away would be sparsity for nothing.
    Raises UserError for a head that has no table of its own.
    """
    role = roles(model)
    idle = set(unused(model))
    inside = {id(p) for p in model.trunk.stack.parameters()}
    tables = {id(p) for part in _tables(model, include) for p in part.parameters() if p.ndim > 1}
    return {
        name: p
        for name, p in model.named_parameters()
        if (id(p) in inside and role[name] == "matrix" and name not in idle) or id(p) in tables
    }


def _tables(model: GPT, include: Collection[str]) -> Iterator[nn.Module]:
    if "head" in include:
        if not any(p.ndim > 1 for p in model.head.parameters()):
            raise UserError(
                "the head has no matrix of its own: it shares the embedding's. Include the "
                "embedding, or neither"
            )
        yield model.head
    if "embedding" in include:
        yield model.trunk.embed


def by_layer(model: GPT, weights: dict[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
    """The same weights, layer after layer; what stands in no layer comes last."""
    layer = {id(p): i for i, block in enumerate(layers(model)) for p in block.parameters()}
    last = len(layer)
    groups: dict[int, dict[str, nn.Parameter]] = {}
    for name, weight in weights.items():
        groups.setdefault(layer.get(id(weight), last), {})[name] = weight
    return [groups[i] for i in sorted(groups)]


def layers(model: GPT) -> list[nn.Module]:
    """The blocks of a stack, in order."""
    blocks = getattr(model.trunk.stack, "blocks", ())
    bare = (block.block if isinstance(block, Steered) else block for block in blocks)
    return [block for block in bare if isinstance(block, nn.Module)]


def zeros(weights: Collection[Tensor]) -> int:
    return sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
