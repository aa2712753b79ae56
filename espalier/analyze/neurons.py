"""What neurons have become: by what the parts of a model offer, whatever its recipe."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from espalier.analyze import competition, dendrites, oscillation, record
from espalier.analyze.oscillation import Range
from espalier.data.tokens import Tokens
from espalier.nn.activation.oscillating import Oscillating
from espalier.nn.block.cortical import Cortical
from espalier.nn.ffn.dendritic import Dendritic
from espalier.nn.gpt import GPT
from espalier.train.hearing import by_layer


def figures(
    model: GPT, tokens: Tokens, starts: NDArray[np.int64], block_size: int
) -> dict[str, dict[str, Any]]:
    """Sections by name; one for which the model has no part is left out.

    oscillating, activations (features that never move), dendrites, competition: by path; told: what
    parts told of the windows, layer by layer.
    """
    inputs: defaultdict[str, Range] = defaultdict(Range)
    outputs: defaultdict[str, Range] = defaultdict(Range)

    def hear(path: str, given: tuple[Any, ...], output: Tensor) -> None:
        if not output.numel():  # an expert that no token chose
            return
        place = path.partition("#")[0]
        inputs[place].add(given[0])
        outputs[place].add(output)

    activations = [p for p in record.places(model) if p.rpartition(".")[2] == "activation"]
    with record.listening(model, dict.fromkeys(activations, hear)):
        told = record.run(model, tokens, starts, block_size)
    found = {
        "oscillating": {
            path: oscillation.figures(part, inputs[path])
            for path, part in of_kind(model, Oscillating)
            if path in inputs
        },
        "activations": {path: still(outputs[path]) for path in activations if path in outputs},
        "dendrites": {
            path: one
            for path, part in of_kind(model, Dendritic)
            if (one := dendrites.figures(part)) is not None
        },
        "competition": {
            path: competition.figures(layer) for path, layer in of_kind(model, Cortical)
        },
        "told": by_layer(told).get("layers", {}),
    }
    return {name: section for name, section in found.items() if section}


P = TypeVar("P", bound=nn.Module)


def of_kind(model: GPT, kind: type[P]) -> list[tuple[str, P]]:
    return [(path, part) for path, part in model.named_modules() if isinstance(part, kind)]


def still(outputs: Range) -> dict[str, Any]:
    """Features whose output was one and the same number for every token: they carry nothing."""
    low, high = outputs.ends()
    return {"features": low.numel(), "dead": float((low == high).double().mean())}
