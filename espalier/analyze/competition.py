"""Which neurons of a cortical layer win its competition, and which branches their somas hear."""

from __future__ import annotations

from typing import Any

import torch

from espalier.nn.block.cortical import Cortical
from espalier.nn.cortex.neuron import Neuron
from espalier.nn.linear.low_rank import LowRank


def figures(layer: Cortical) -> dict[str, Any]:
    """`weights`: softmax of the competition; `neurons`: each one's branches.

    `uniform` is the weight each neuron has at the start. `share` is `weight` over it, so that above
    1 a neuron has won.
    """
    weights = torch.softmax(layer.competition.detach().double(), 0).tolist()
    uniform = 1 / len(weights)
    neurons = [neuron for neuron in layer.neurons if isinstance(neuron, Neuron)]
    return {
        "uniform": uniform,
        "neurons": [
            {"weight": weight, "share": weight / uniform, **branches(neuron)}
            for weight, neuron in zip(weights, neurons, strict=True)
        ],
    }


def branches(neuron: Neuron) -> dict[str, Any]:
    """How loud each branch is: the norm of its columns of the soma's mix, times its norm's gains.

    The gains follow a normalisation, so that this is the length of what the soma hears of the
    branch, of typical input. `even` is the effective number of branches, 1 / sum of squared shares
    of energy: all of them when equally loud.
    """
    count, width = neuron.shape
    mix = neuron.soma.mix.get_parameter("weight").detach().double()
    if isinstance(neuron.soma.mix, LowRank):
        mix = mix @ neuron.soma.mix.inner.detach().double()
    gain = neuron.norm.weight.detach().double()
    loud = (mix * gain).view(len(mix), count, width).square().sum((0, 2)).sqrt()
    share = loud.square() / loud.square().sum()
    return {
        "branches": count,
        "branch_width": width,
        "branch_norms": loud.tolist(),
        "even": float(1 / share.square().sum()),
    }
