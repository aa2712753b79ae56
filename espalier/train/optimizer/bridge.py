"""Any optimizer of torch or of pytorch-optimizer (kozistr), by its name there: the long tail."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from espalier.errors import ConfigError, UserError, nearest, need
from espalier.train.slots import Decayed, Named, Optimizer, OptimizerConfig

AT = "train.optimizer"
RULED = {"lr", "weight_decay", "params", "foreach", "fused", "maximize", "differentiable"}
NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}


class BridgeConfig(OptimizerConfig):
    """library's own step, without its weight decay; ours is taken off before

    Steps wait for the device, and only tensors and numbers can be saved: an optimizer that needs a
    closure, or remembers something else, is refused when it is built.
    """

    library: Literal["torch", "pytorch_optimizer"] = "torch"
    kind: str = "RAdam"
    """its name there, whatever the case"""
    options: dict[str, bool | int | float | str | tuple[int | float, ...]] = Field({})
    """its own arguments, but for the learning rate and weight decay"""
    decay: Decayed = ("matrix",)

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        return Bridge(self, parameters, weight_decay)


class Bridge(Optimizer):
    by_matrix = True  # some are, and none says so

    def __init__(self, config: BridgeConfig, parameters: list[Named], weight_decay: float):
        self.config, self.parameters, self.weight_decay = config, parameters, weight_decay
        self.kind = find(config.library, config.kind)
        _rehearse(self._made, config.kind)
        self.inner = self._made([named.tensor for named in parameters])

    def _made(self, tensors: list[nn.Parameter]) -> torch.optim.Optimizer:
        options: dict[str, Any] = dict(self.config.options)
        wrong = sorted(RULED & options.keys())
        if wrong:
            raise ConfigError(f"{AT}.options.{wrong[0]} is ruled by train, not by the library")
        known = inspect.signature(self.kind).parameters
        options["lr"] = 1e-3  # until the first step says
        if "weight_decay" in known:
            options["weight_decay"] = 0.0
        unknown = [key for key in self.config.options if key not in known]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ConfigError(
                f"{AT}.options.{unknown[0]}: {self.kind.__name__} takes no such argument."
                f"{nearest(unknown[0], known)}"
            )
        try:
            made: torch.optim.Optimizer = self.kind(tensors, **options)
        except Exception as error:
            raise ConfigError(f"{AT}: {self.kind.__name__} refuses: {error}") from None
        return made

    @torch.no_grad()
    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        if skip.item():
            return
        for named in self.parameters:
            if named.tensor.grad is None:
                continue
            named.tensor.grad.div_(scale)
            if named.role in self.config.decay:
                named.tensor.mul_(1 - learning_rate * self.weight_decay)
        for group in self.inner.param_groups:
            group["lr"] = learning_rate
        self.inner.step()

    def state(self) -> dict[str, Tensor]:
        """Tensors under their own names; numbers, which a library keeps as such, as `=name`."""
        found: dict[str, Tensor] = {}
        for place, key, value in self._remembered():
            if isinstance(value, Tensor):
                found[f"{place}.{key}"] = value
            else:
                found[f"={place}.{key}"] = torch.tensor(value, dtype=NUMBERS[type(value)])
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        names = {named.name: named.tensor for named in self.parameters}
        for path, value in state.items():
            place, _, key = path.removeprefix("=").rpartition(".")
            number = path.startswith("=")
            if place == "group":
                self.inner.param_groups[0][key] = value.item() if number else value.clone()
            elif place in names:
                home = names[place]
                # as it was saved: torch keeps its step counts on the host
                held = value.item() if number else value.to(_home(home, value), copy=True)
                self.inner.state[home][key] = held
            else:
                raise UserError(
                    f"the optimizer's state does not fit: '{path}' has no place here."
                    f"{nearest(place, names)}"
                )

    def _remembered(self) -> Iterator[tuple[str, str, Any]]:
        yield from _of_group(self.inner)
        for named in self.parameters:
            for key, value in self.inner.state.get(named.tensor, {}).items():
                if value is not None:
                    yield named.name, key, value


def find(library: str, kind: str) -> type[torch.optim.Optimizer]:
    """The class of a name, whatever its case; ConfigError offers the nearest."""
    module = torch.optim if library == "torch" else need("pytorch_optimizer", "optim")
    known = {
        name.lower(): item
        for name, item in vars(module).items()
        if isinstance(item, type) and issubclass(item, torch.optim.Optimizer)
    }
    known.pop("optimizer", None)
    if kind.lower() not in known:
        raise ConfigError(
            f"{AT}.kind: {library} has no optimizer named '{kind}'.{nearest(kind.lower(), known)}"
        )
    return known[kind.lower()]


def _home(tensor: Tensor, value: Tensor) -> torch.device:
    return tensor.device if value.ndim else torch.device("cpu")


def _of_group(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Any]]:
    """What changes beside the parameters' own state: numbers and tensors of the group."""
    for key, value in optimizer.param_groups[0].items():
        if key not in RULED and type(value) in {*NUMBERS, Tensor}:
            yield "group", key, value


def _rehearse(make: Any, kind: str) -> None:
    """Two steps on a small matrix and a vector, to refuse at once what cannot be used."""
    small = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))]
    optimizer = make(small)
    try:
        for _ in range(2):
            for tensor in small:
                tensor.grad = torch.full_like(tensor, 0.1)
            optimizer.step()
    except Exception as error:
        raise ConfigError(f"{AT}: {kind} cannot make a plain step: {error}") from None
    for state in optimizer.state.values():
        for key, value in state.items():
            if value is not None and not isinstance(value, (Tensor, *NUMBERS)):
                raise ConfigError(
                    f"{AT}: {kind} remembers '{key}' as {type(value).__name__}, "
                    "which cannot be saved"
                )
