"""How much of a forward pass each parameter is multiplied in, counted on the meta device."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def operations(model: nn.Module, window: int) -> dict[str, float]:
    """Per token over a window, in the matrix products with each parameter, by name.

    `model` lies on the meta device. What a layer that is called twice holds counts twice; what few
    of many tokens are sent to, such as an expert, counts as those few do. One that is only looked
    up, or in no product, has 0.
    """
    ids = torch.zeros(1, window, dtype=torch.long, device="meta")
    with _Watch(model, ids) as watch:
        model(ids)
    return {name: watch.work[name] / window for name, _ in model.named_parameters()}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows parameters, under whatever shape or scale, to the products that tokens meet them in.

    What is made of tokens, and what comes out of a product of parameters, is followed no further:
    a zero of the one is none of the other.
    """

    def __init__(self, model: nn.Module, ids: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self.work: Counter[str] = Counter()
        self.kept: list[Tensor] = [ids]  # alive, so that no other tensor gets its number
        self.made = {_storage(ids)}
        matrices = ((name, p) for name, p in model.named_parameters() if p.ndim > 1)
        self.origin = {_storage(p): {name} for name, p in matrices}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        names = set[str]().union(*(self.origin.get(_storage(x), ()) for x in given))
        product: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if product is not None and names:
            work = product(*args, **(kwargs or {}), out_val=out)
            self.work.update(dict.fromkeys(names, work))
        fluid = product is not None or any(_storage(x) in self.made for x in given)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _storage(x) not in self.origin:
                self.kept.append(x)
                if fluid:
                    self.made.add(_storage(x))
                elif names:
                    self.origin[_storage(x)] = names
        return out


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
