"""Activations changed while a model runs.

A site is a module's path, for its output, or `PATH:heads` for what the heads of an attention say
before they are projected: (batch, time, heads, width), whatever kind of attention it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from espalier.analyze.record import counted
from espalier.nn.attend import Attend
from espalier.nn.gpt import GPT
from espalier.nn.state import Pass

Change = Callable[[str, Tensor], Tensor]
"""called with the site (then SITE#2 ... in one pass) and what stands there; gives what shall"""

HEADS = ":heads"


@contextmanager
def changing(model: GPT, sites: Mapping[str, Change]) -> Iterator[None]:
    """While it lasts, what stands at a site is what its function makes of it."""
    calls: Counter[str] = Counter()

    def heard(site: str, change: Change) -> Callable[[Tensor], Tensor]:
        def one(x: Tensor) -> Tensor:
            return change(counted(calls, site), x)

        return one

    with ExitStack() as stack:
        anew = model.trunk.register_forward_pre_hook(lambda module, inputs: calls.clear())
        stack.callback(anew.remove)
        for site, change in sites.items():
            module = model.get_submodule(site.removesuffix(HEADS))
            if isinstance(module, Attend) and site.endswith(HEADS):
                stack.enter_context(_mixing(module, heard(site, change)))
            else:
                hook = module.register_forward_hook(_hook(heard(site, change)))
                stack.callback(hook.remove)
        yield


def _hook(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda module, inputs, output: change(output)


@contextmanager
def _mixing(module: Attend, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """`mix` is where every attention's heads stand apart; hooks reach modules alone."""
    own = module.mix

    def mixed(q: Tensor, k: Tensor, v: Tensor, where: Tensor | None, now: Pass) -> Tensor:
        return change(own(q, k, v, where, now))

    try:
        module.mix = mixed  # type: ignore[method-assign]
        yield
    finally:
        del module.mix


@torch.no_grad()
def kept(model: GPT, ids: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    """What stands at the sites in a pass over `ids`, under each call's name."""
    found: dict[str, Tensor] = {}

    def keep(site: str, x: Tensor) -> Tensor:
        found[site] = x
        return x

    with changing(model, dict.fromkeys(sites, keep)):
        model(ids)
    return found


def put(call: str, new: Tensor, index: tuple[Any, ...]) -> Change:
    """At this call of a site, `new` takes the place of what stands at `index`."""

    def change(site: str, x: Tensor) -> Tensor:
        if site != call:
            return x
        x = x.clone()
        x[index] = new[index].to(x.dtype)
        return x

    return change


def site_of(call: str) -> str:
    """The site of a call's name: without #2."""
    return call.partition("#")[0]


def head_name(call: str, head: int) -> str:
    """PATH:3, the fourth head at PATH; PATH:3#2 of its second call."""
    site, mark, number = call.partition("#")
    return f"{site.removesuffix(HEADS)}:{head}{mark}{number}"
