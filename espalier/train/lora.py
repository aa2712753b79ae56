"""Low-rank adapters beside frozen weights (LoRA, arXiv:2106.09685), and how they are kept.

A layer W x + b becomes W x + b + (alpha / rank) U D dropout(x), of which U and D alone are trained.
The layer's own weights keep their names. They stand once in the run, as base.safetensors;
checkpoints hold the adapters. Whoever opens the run gets them merged: W + (alpha / rank) U D.
"""

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.durable import digest, replacing
from espalier.errors import ConfigError, MachineError, UserError
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import Part
from espalier.nn.state import Pass
from espalier.run import BASE
from espalier.train.settings import LoraConfig

ADAPTERS = ("down", "up")


class Lora(Part):
    """A dense layer, whose tensors it shares, and its adapter."""

    def __init__(self, dense: Dense, config: LoraConfig):
        super().__init__()
        self.dense = (dense,)  # a tuple, so that its tensors keep their names as ours
        self.weight, self.bias = dense.weight, dense.bias
        self.scale, self.dropout = config.alpha / config.rank, config.dropout
        n_out, n_in = dense.weight.shape
        self.down = nn.Parameter(dense.weight.new_empty(config.rank, n_in))
        self.up = nn.Parameter(dense.weight.new_empty(n_out, config.rank))

    def reset(self) -> None:
        """D uniform as torch's own linear layers, U zero: the layer starts as it was."""
        start = torch.empty(self.down.shape)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5))
        self.down.copy_(start)
        nn.init.zeros_(self.up)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        low = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, self.up)

    @torch.no_grad()
    def merged(self) -> Dense:
        """The layer with the adapter in its weights."""
        (dense,) = self.dense
        product = self.scale * self.up.double() @ self.down.double()
        dense.weight.add_(product.to(dense.weight.dtype))
        return dense


def adapt(model: nn.Module, config: LoraConfig, seed: int) -> None:
    """Freeze a model, but for what `also` names, and give adapters to the targets' dense layers.

    ConfigError for a pattern that names none.
    """
    layers = {path: m for path, m in model.named_modules() if type(m) is Dense}
    for target in config.targets:
        if not any(fnmatchcase(path, target) for path in layers):
            kinds = sorted({".".join(path.split(".")[-2:]) for path in layers})
            raise ConfigError(
                f"train.lora.targets: '{target}' names no dense layer; there are "
                f"{', '.join(f'*.{kind}' for kind in kinds)}"
            )
    model.requires_grad_(False)
    for pattern in config.also:
        if not named(model, pattern):
            raise ConfigError(f"train.lora.also: '{pattern}' names no parameter")
        for parameter in named(model, pattern).values():
            parameter.requires_grad_(True)
    wanted = {
        id(layer): Lora(layer, config)
        for path, layer in layers.items()
        if any(fnmatchcase(path, target) for target in config.targets)
    }
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in wanted:
            _replace(model, path, wanted[id(module)])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for adapter in wanted.values():
            adapter.reset()


def merge(model: nn.Module) -> None:
    """Work every adapter into its layer, which takes its place again."""
    done: dict[int, Dense] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, Lora):
            if id(module) not in done:
                done[id(module)] = module.merged()
            _replace(model, path, done[id(module)])
    model.requires_grad_(True)


def named(model: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters whose path a pattern matches; * stands for anything, dots too."""
    return {n: p for n, p in model.named_parameters() if fnmatchcase(n, pattern)}


def adapters(model: nn.Module) -> set[str]:
    """The names of all adapters' tensors; empty for a model that has none."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, Lora)
        for name in ADAPTERS
    }


def trained(model: nn.Module) -> set[str]:
    """What a checkpoint of an adapted model holds: adapters, and parameters trained whole.

    Empty for a model without adapters.
    """
    if not adapters(model):
        return set()
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_base(model: nn.Module, run: Path) -> str:
    """Write what is frozen beside the checkpoints of a run, whole or not at all; its SHA-256."""
    try:
        with replacing(run / BASE) as working:
            save_file({name: t.contiguous() for name, t in _frozen(model)}, working)
    except (OSError, SafetensorError) as error:
        raise MachineError(f"cannot write {run / BASE}: {error}") from None
    return digest(run / BASE)


def load_base(model: nn.Module, run: Path, expected: str | None = None) -> str:
    """Fill what is frozen; its SHA-256. UserError where it is missing or not the `expected` one."""
    file = run / BASE
    if not file.is_file():
        raise UserError(f"{file} is missing: the run's checkpoints hold its adapters alone")
    found = digest(file)
    if expected is not None and found != expected:
        raise UserError(f"{file} has changed since the adapters were trained on it (SHA-256)")
    held = load_file(file)
    with torch.no_grad():
        for name, tensor in _frozen(model):
            tensor.copy_(held[name])
    return found


def _frozen(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a checkpoint does not hold; shared ones once."""
    own, seen = trained(model), set[int]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            if name not in own:
                yield name, tensor.detach()


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
