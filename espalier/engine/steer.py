"""Activation vectors: a layer's mean output on a text, to subtract and add while generating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from espalier.durable import write_asked
from espalier.errors import UserError
from espalier.nn.gpt import GPT
from espalier.nn.state import Pass, at
from espalier.nn.steered import Steered


@dataclass(frozen=True)
class Vector:
    """What a layer says; `layer` counts from 0."""

    values: Tensor  # (n_embd,)
    layer: int

    def __sub__(self, other: Vector) -> Vector:
        if self.layer != other.layer or self.values.shape != other.values.shape:
            raise UserError(
                f"vectors of layer {self.layer} ({len(self.values)} numbers) and layer "
                f"{other.layer} ({len(other.values)}) cannot be subtracted"
            )
        return Vector(self.values - other.values, self.layer)

    def write(self, file: Path) -> None:
        """Raises UserError where no file can stand."""
        write_asked(file, save({"vector": self.values, "layer": torch.tensor(self.layer)}))

    @classmethod
    def read(cls, file: Path) -> Vector:
        """Raises UserError for a file that holds none."""
        try:
            found = load(file.read_bytes())
            return cls(found["vector"].float(), int(found["layer"]))
        except OSError as error:
            raise UserError(f"cannot read the vector {file}: {error.strerror}") from None
        except (SafetensorError, KeyError) as error:
            raise UserError(f"{file} holds no vector of --save-vector: {error}") from None


def between(files: Sequence[str | Path], layer: int | None = None) -> Vector:
    """The first file's vector minus the others', for its own layer or another one."""
    first, *others = [Vector.read(Path(file)) for file in files]
    for other in others:
        first = first - other
    return first if layer is None else replace(first, layer=layer)


@torch.no_grad()
def listen(model: GPT, ids: Sequence[int], layer: int | None = None) -> Vector:
    """The mean over time of a layer's output on `ids`; the middle layer's where none is named."""
    layer = depth(model) // 2 if layer is None else layer
    device = next(model.parameters()).device
    heard: list[Tensor] = []
    with find(model, layer).register_forward_hook(lambda _m, _x, out: heard.append(out)):
        tokens = torch.tensor([list(ids)], device=device)
        model.trunk(tokens, at(tokens))
    return Vector(heard[-1][0].float().mean(0).cpu(), layer)


def push(model: GPT, vector: Vector, scale: float) -> RemovableHandle:
    """From here on the vector's layer says scale * vector more; a `with` takes it away again."""
    more = scale * vector.values.to(next(model.parameters()).device)

    def add(_: nn.Module, given: tuple[Tensor, Pass], out: Tensor) -> Tensor:
        if out.shape[-1] != len(more):
            wide = f"the model is {out.shape[-1]} wide"
            raise UserError(f"the vector has {len(more)} numbers, {wide}")
        return out + more.to(out.dtype)

    return find(model, vector.layer).register_forward_hook(add)


def choose(model: GPT, source: int) -> RemovableHandle:
    """From here on every row counts as one of corpus `source`, for `model.steering`."""
    steered = [part for part in model.modules() if isinstance(part, Steered)]
    if not steered:
        raise UserError("the model has no model.steering, so it cannot tell sources apart")
    count = steered[0].sources
    if source < 0 or (count is not None and source >= count):
        known = "from 0" if count is None else f"0 to {count - 1}"
        raise UserError(f"there is no source {source}: model.steering has {known}")

    def mark(_: nn.Module, given: tuple[Tensor, Pass]) -> None:
        ids, now = given
        now.source = torch.full_like(ids[:, 0], source)

    return model.trunk.register_forward_pre_hook(mark)


def depth(model: GPT) -> int:
    """How many layers the stack has."""
    return len(getattr(model.trunk.stack, "blocks", ()))


def find(model: GPT, layer: int) -> nn.Module:
    """A layer of the stack; UserError where none is, or one that a pass runs several times."""
    if not 0 <= layer < depth(model):
        raise UserError(f"there is no layer {layer}: the stack has 0 to {depth(model) - 1}")
    stack = model.trunk.stack
    blocks: Sequence[nn.Module] = getattr(stack, "blocks")  # noqa: B009 - any stack's
    times = sum(block is blocks[layer] for block in blocks) * getattr(stack, "runs", 1)
    if times > 1:
        raise UserError(
            f"layer {layer} runs {times} times in a pass (model.stack): a vector can be neither "
            "saved from it nor added to it"
        )
    return blocks[layer]
