"""What parts tell of themselves (`Pass.tell`), gathered on the device and read when it is asked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espalier.train.parallel.ranks import Ranks

USUAL = (0.05, 0.50)  # share of silent features that calls for no advice

Heard = Mapping[str, Sequence[float]]  # figure -> one value for each part that tells it


class Hearing:
    """Sums of told figures since they were last taken; adding never waits for the device."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weight = 0

    def add(self, told: Mapping[str, Sequence[Tensor]], weight: int) -> None:
        """Figures of one pass over `weight` rows."""
        for name, values in told.items():
            here = torch.stack([value.float() for value in values]) * weight
            self._sums[name] = self._sums[name] + here if name in self._sums else here
        self._weight += weight

    def meet(self, ranks: Ranks) -> None:
        """Add up what all ranks have heard; each may have heard something or nothing."""
        if ranks.count == 1:
            return
        mine = {name: total.tolist() for name, total in self._sums.items()}
        found: dict[str, Tensor] = {}
        self._weight = ranks.total(self._weight)
        for text in ranks.texts(json.dumps(mine)):
            for name, values in json.loads(text).items():
                here = torch.tensor(values)
                found[name] = found[name] + here if name in found else here
        self._sums = found

    def take(self) -> dict[str, list[float]]:
        """The mean of each figure over all rows, layer by layer; starts anew."""
        found = {name: (total / self._weight).tolist() for name, total in self._sums.items()}
        self.clear()
        return found


def shares(heard: Heard) -> dict[str, float]:
    """Each figure over the whole model.

    Beside `silent` stand `active` = 1 - silent and `sparsity_published`, the name under which
    WiggleGPT printed its active share.
    """
    found = {name: sum(values) / len(values) for name, values in heard.items()}
    if "silent" in found:
        active = 1 - found["silent"]
        found |= {"active": active, "sparsity_published": active}
    return found


def by_layer(heard: Heard) -> dict[str, Any]:
    """Each figure layer by layer, under `layers`; nothing where nothing was told."""
    found = {name: list(values) for name, values in heard.items()}
    if "silent" in found:
        found["active"] = [1 - share for share in found["silent"]]
    return {"layers": found} if found else {}


def advice(found: Mapping[str, float]) -> str:
    """One line where few features are silent or most are, else nothing."""
    share = found.get("silent", USUAL[0])
    if USUAL[0] <= share <= USUAL[1]:
        return ""
    few = share < USUAL[0]
    return (
        f"{'fewer than 5' if few else 'more than 50'} % of features are silent: "
        f"{'raise' if few else 'lower'} model.block.ffn.threshold"
    )
