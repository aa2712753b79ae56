"""Activations under TransformerLens' names, so that notebooks written for it find them.

`run_with_cache(model, ids)` gives logits and a `Cache`: cache["blocks.0.attn.hook_pattern"],
cache["pattern", 0], cache["resid_post", -1]. Layers are numbered in the order of their calls, so
that shared layers and second passes are blocks of their own; a cortical neuron is an attention
`blocks.0.neurons.1.attn`. Shapes are TransformerLens' too: q, k, v, z (batch, position, head,
width), scores and pattern (batch, head, query, key). What a model does not have has no name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from espalier.analyze import record, stream
from espalier.errors import need
from espalier.nn.attend import Attend
from espalier.nn.gpt import GPT
from espalier.nn.slots import Part, Position
from espalier.nn.state import Pass

INSIDE = {
    "q": "attn", "k": "attn", "v": "attn", "z": "attn", "rot_q": "attn", "rot_k": "attn",
    "attn_scores": "attn", "pattern": "attn", "pre": "mlp", "post": "mlp",
}  # fmt: skip
MODULES = {
    "attention": "hook_attn_out",
    "ffn": "hook_mlp_out",
    "ffn.up": "mlp.hook_pre",
    "ffn.activation": "mlp.hook_post",
    "norm_1": "ln1.hook_normalized",
    "pre_1": "ln1.hook_normalized",
    "norm_2": "ln2.hook_normalized",
    "pre_2": "ln2.hook_normalized",
}
TOP = {
    "trunk.embed": "hook_embed",
    "trunk.norm": "ln_final.hook_normalized",
}


class Cache(Mapping[str, Tensor]):
    """By name, or by (what, layer), negative layers from the last; `model`'s paths are not in it.

    >>> cache["pattern", 0] is cache["blocks.0.attn.hook_pattern"]
    """

    def __init__(self, found: Mapping[str, Tensor], layers: int):
        self.found, self.layers = dict(found), layers

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        return self.found[self.name(*key) if isinstance(key, tuple) else key]

    def name(self, what: str, layer: int) -> str:
        """The whole name: ("pattern", -1) is blocks.11.attn.hook_pattern."""
        number = layer + self.layers if layer < 0 else layer
        inside = f"{INSIDE[what]}." if what in INSIDE else ""
        return f"blocks.{number}.{inside}hook_{what}"

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def stack(self, what: str) -> Tensor:
        """One activation of every layer that has it: (layers, ...)."""
        names = [self.name(what, layer) for layer in range(self.layers)]
        return torch.stack([self.found[name] for name in names if name in self.found])


@torch.no_grad()
def run_with_cache(model: GPT, ids: Tensor) -> tuple[Tensor, Cache]:
    """Logits, to the rounding of the parts' reference path, and everything that has a name."""
    hearing = _Hearing(model)
    with record.plainly(model), record.listening(model, hearing.ears), hearing.inside():
        logits = model(ids)
    return logits, Cache(hearing.found, hearing.layer)


class _Hearing:
    """Names what it hears by the number of layers that ended before."""

    def __init__(self, model: GPT):
        self.model, self.layer = model, 0
        self.found: dict[str, Tensor] = {}
        self.blocks = stream.layers(model)
        self.mixers = stream.mixers(model)
        self.ears: dict[str, record.Hear] = {path: self._top(name) for path, name in TOP.items()}
        if model.trunk.norm is None:
            del self.ears["trunk.norm"]
        for block in self.blocks:
            part = model.get_submodule(block)
            for path, name in MODULES.items():
                if _has(part, path):
                    self.ears[f"{block}.{path}"] = self._within(name)
            self.ears[block] = self._ended
        for path in self.mixers:
            self.ears[f"{path}.score"] = self._scored

    def _top(self, name: str) -> record.Hear:
        def hear(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
            self.found[name] = output

        return hear

    def _within(self, name: str) -> record.Hear:
        def hear(path: str, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                self.found[f"blocks.{self.layer}.{name}"] = output

        return hear

    def _ended(self, path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        here = f"blocks.{self.layer}."
        self.found[f"{here}hook_resid_pre"] = inputs[0]
        self.found[f"{here}hook_resid_post"] = output
        attention, ffn = (self.found.get(f"{here}hook_{n}_out") for n in ("attn", "mlp"))
        if attention is not None and ffn is not None:
            middle = inputs[0] + attention
            if torch.equal(middle + ffn, output):  # else the stream has no such place
                self.found[f"{here}hook_resid_mid"] = middle
        self.layer += 1

    def _attention(self, path: str) -> str:
        """blocks.0.attn, or blocks.0.neurons.1.attn."""
        path = path.partition("#")[0]
        block = next(block for block in self.blocks if path.startswith(f"{block}."))
        words = path.removeprefix(f"{block}.").split(".")
        inner = f"neurons.{words[1]}." if words[0] == "neurons" else ""
        return f"blocks.{self.layer}.{inner}attn"

    def _scored(self, path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        name = self._attention(path)
        time = inputs[0].shape[-2]
        scores = inputs[0].masked_fill(~inputs[1], float("-inf"))
        self.found[f"{name}.hook_attn_scores"] = scores[..., :time]
        self.found[f"{name}.hook_pattern"] = output[..., :time]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hear queries, keys, values and what heads say."""
        with ExitStack() as stack:
            for path in self.mixers:
                part = self.model.get_submodule(path)
                assert isinstance(part, Attend)
                stack.callback(self._mix(path, part))
            yield

    def _mix(self, path: str, part: Attend) -> Callable[[], None]:
        own = part.mix

        def mixed(q: Tensor, k: Tensor, v: Tensor, where: Tensor | None, now: Pass) -> Tensor:
            name = self._attention(path)
            turned = now.position is not None and type(now.position).turn is not Position.turn
            found = {("rot_q" if turned else "q"): q, ("rot_k" if turned else "k"): k, "v": v}
            found["z"] = own(q, k, v, where, now)
            self.found |= {f"{name}.hook_{what}": one for what, one in found.items()}
            return found["z"]

        part.mix = mixed  # type: ignore[method-assign]
        return lambda: delattr(part, "mix")


def _has(part: nn.Module, path: str) -> bool:
    try:
        return isinstance(part.get_submodule(path), Part)
    except AttributeError:
        return False


def nnsight(model: GPT) -> Any:
    """The model in nnsight's wrapper, its modules under our paths. MachineError without nnsight.

    >>> with nnsight(model).trace(ids): hidden = wrapped.trunk.stack.blocks[0].output.save()
    """
    return need("nnsight", "interp").NNsight(model)
