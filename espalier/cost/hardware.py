"""What a circuit has to do for a model: products, special functions, reads, energy, area, cycles.

Counted from the model itself, on the meta device, in two cases: one token behind a full window of
others, and a prompt as long as the window. Energy is of products, of weights and of what attention
remembers, both read from DRAM once for a token (`espalier/cost/energy.py` has the prices). Special
functions are counted and have no price: none that is published fits them all. Vectors, activations,
control and wires are left out, so that energy and area are lower bounds.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from espalier.cost.energy import BYTE, Format, stored
from espalier.nn.attend import Attend
from espalier.nn.gpt import GPT
from espalier.nn.slots import LinearConfig, Part
from espalier.nn.state import KV, Pass, State, allocate, at, leaves

Product = tuple[int, int, int, int]
"""So many products of matrices (m, k) and (k, n)."""


@dataclass
class Work:
    """What a place in the model does in one case; places that differ in their layer are one."""

    products: list[Product] = field(default_factory=list)
    weights: float = 0  # bits read
    special: Counter[str] = field(default_factory=Counter)

    @property
    def multiplications(self) -> int:
        return sum(math.prod(one) for one in self.products)

    def energy(self, form: Format) -> float:
        """Joules of the products, and of reading weights once."""
        return self.multiplications * form.product + self.weights / 8 * BYTE


@dataclass(frozen=True)
class Case:
    """A pass, by place; and how many numbers it finds remembered."""

    tokens: int
    places: Mapping[str, Work]
    remembered: int

    @property
    def all(self) -> Work:
        every = Work()
        for work in self.places.values():
            every.products += work.products
            every.weights += work.weights
            every.special += work.special
        return every

    def energy(self, form: Format) -> float:
        """Joules, what is remembered included."""
        return self.all.energy(form) + self.remembered * form.bits / 8 * BYTE


def token(model: GPT, window: int, form: Format) -> Case:
    """One token behind `window` - 1 others; a whole pass where parts cannot go on from a cache."""
    if any("steps" in part.exempt for part in model.modules() if isinstance(part, Part)):
        return prompt(model, window, form)
    states = allocate(model, 1, window, "meta")
    ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    now = Pass(ids + window - 1, states, window, fresh=False)
    for state in leaves(states):
        _without_bin(state)
    remembered = sum(
        t.numel() for s in leaves(states) for t in s.tensors() if t.is_floating_point()
    )
    return Case(1, _watched(model, ids, now, form), remembered)


def prompt(model: GPT, window: int, form: Format) -> Case:
    """All tokens of a window at once, causal attention as the full square."""
    ids = torch.zeros(1, window, dtype=torch.long, device="meta")
    return Case(window, _watched(model, ids, at(ids), form), 0)


def cycles(products: Sequence[Product], rows: int, columns: int) -> int:
    """Of a systolic array that keeps its results: a tile takes k + rows + columns - 2 cycles.

    A product of (m, k) and (k, n) has ceil(m / rows) ceil(n / columns) tiles, one after the other.
    """
    return sum(
        times * math.ceil(m / rows) * math.ceil(n / columns) * (k + rows + columns - 2)
        for times, m, k, n in products
    )


def busy(products: Sequence[Product], rows: int, columns: int) -> float:
    """The share of the array's multiplications that are of the products."""
    taken = cycles(products, rows, columns) * rows * columns
    return sum(math.prod(one) for one in products) / taken if taken else 0.0


@torch.no_grad()
def _watched(model: GPT, ids: Tensor, now: Pass, form: Format) -> dict[str, Work]:
    """A pass of the reference path, in which scores are a tensor and not a kernel's secret."""
    watch = _Watch(model, form)
    fused = [part for part in model.modules() if isinstance(part, Attend) and part.fused]
    hooks = [hook for path, part in model.named_modules() for hook in watch.hooks(path, part)]
    for part in fused:
        part.fused = False
    try:
        with watch:
            model(ids, now)
    finally:
        for part in fused:
            part.fused = True
        for hook in hooks:
            hook.remove()
    return dict(watch.found)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the products and special functions of a pass, at the part that they belong to."""

    def __init__(self, model: GPT, form: Format):
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: defaultdict[str, Work] = defaultdict(Work)
        self.inside: list[tuple[str, nn.Module]] = []
        self.bits, self.embed = form.bits, model.trunk.embed
        few = stored(model)
        self.weights = {
            _storage(own): few.get(name, form.bits) for name, own in model.named_parameters()
        }

    def hooks(self, path: str, part: nn.Module) -> Iterator[Any]:
        place = re.sub(r"\.\d+(?=\.|$)", ".*", path.removeprefix("trunk.")) or "trunk"

        def enter(*_: object) -> None:
            self.inside.append((place, part))

        def leave(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            self.inside.pop()
            if isinstance(part, Part) and isinstance(made, Tensor):
                self._special(place, part, given[0], made)

        yield part.register_forward_pre_hook(enter)
        yield part.register_forward_hook(leave)

    def _special(self, place: str, part: Part, given: Tensor, made: Tensor) -> None:
        """A linear map evaluates functions of what comes in, any other of what goes out.

        What is told as fewer than one an element is one a row; a softcap is of the scores.
        """
        x = given if type(part).__module__.startswith(LinearConfig.slot) else made
        own = dict(part.special)
        if isinstance(part, Attend) and part.softcap is not None:
            own.pop("tanh")
        self._evaluated(place, own, x)
        place, above = self.inside[-1] if self.inside else ("", part)
        if isinstance(above, Attend) and part is above.score and above.softcap is not None:
            self._evaluated(place, {"tanh": 1}, x)

    def _evaluated(self, place: str, functions: Mapping[str, float], x: Tensor) -> None:
        for name, each in functions.items():
            times = each * x.numel() if each else x.numel() // x.shape[-1]
            self.found[place].special[name] += round(times)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:] if name in ("mm", "bmm") else args[1:3]
            times = a.shape[0] if a.ndim == 3 else 1
            self._multiplied((times, a.shape[-2], a.shape[-1], b.shape[-1]), (a, b))
        elif name == "convolution":
            x, weight = args[:2]
            groups = args[8]
            out = math.prod(made.shape[:1] + made.shape[2:])
            taps = math.prod(weight.shape[1:])
            self._multiplied((groups, out, taps, weight.shape[0] // groups), (x, weight))
        elif name == "embedding":
            self._work().weights += made.numel() * self.weights.get(_storage(args[0]), self.bits)
        return made

    def _work(self) -> Work:
        return self.found[self.inside[-1][0]]

    def _multiplied(self, product: Product, operands: tuple[Tensor, Tensor]) -> None:
        if not math.prod(product):
            return
        work = self._work()
        work.products.append(product)
        x, weight = operands
        work.weights += x.numel() * self.weights.get(_storage(x), 0)
        work.weights += weight.numel() * self.weights.get(_storage(weight), self._rounded(weight))

    def _rounded(self, weight: Tensor) -> float:
        """Bits of each number of a weight that was rounded, and so is a new tensor; else 0."""
        part = self.inside[-1][1]
        owner = part if any(True for _ in part.parameters()) else self.embed  # of a tied head
        if getattr(owner, "rounds", False):
            for name, own in owner.named_parameters(recurse=False):
                if own.numel() == weight.numel():
                    return float(getattr(owner, "stored", {}).get(name, self.bits))
        return 0.0


def _without_bin(state: State) -> None:
    """Keys and values of real tokens alone: the last slot is where padding is written."""
    if isinstance(state, KV):
        state.keys, state.values, state.seen = (
            t[:, :-1] for t in (state.keys, state.values, state.seen)
        )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
