"""What a checkpoint holds: weights and moments as safetensors, randomness as JSON."""

import base64
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from espalier.errors import UserError, nearest
from espalier.run import MODEL, OPTIMIZER
from espalier.train import lora
from espalier.train.parallel import pieces
from espalier.train.slots import Optimizer


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by path; shared ones once, under their first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def kept(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds: everything, or beside adapters what is trained."""
    held, own = tensors(model), lora.trained(model)
    return {name: held[name] for name in held if name in own} if own else held


def writer(model: nn.Module, optimizer: Optimizer | None = None) -> Callable[[Path], None]:
    """The function that fills a checkpoint directory, for `Run.commit`."""

    def write(folder: Path) -> None:
        save(kept(model), folder / MODEL)
        if optimizer is not None:
            save(optimizer.state(), folder / OPTIMIZER)

    return write


def size(model: nn.Module, optimizer: Optimizer | None = None) -> int:
    """Bytes that `writer` will write, nearly."""
    held = [*kept(model).values(), *(optimizer.state().values() if optimizer else ())]
    return sum(t.numel() * t.element_size() for t in held)


def finite(held: Iterable[Tensor]) -> bool:
    """Whether no weight is NaN or infinite."""
    floats = [tensor for tensor in held if tensor.is_floating_point() and tensor.numel()]
    if not floats:
        return True
    return bool(torch.stack(torch._foreach_norm(floats, float("inf"))).isfinite().all())


def load_model(model: nn.Module, folder: Path) -> None:
    """Fill a model from a checkpoint directory; every name and shape must fit."""
    fill(kept(model), stored(folder / MODEL), str(folder / MODEL))


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Fill an optimizer from a checkpoint directory."""
    require_optimizer(folder)
    optimizer.load(stored(folder / OPTIMIZER))


def require_optimizer(folder: Path) -> None:
    """UserError for a checkpoint that holds weights alone."""
    file = folder / OPTIMIZER
    if not file.is_file() and not pieces.index_of(file).is_file():
        raise UserError(f"{folder} has no {OPTIMIZER}: it can start a run, not continue one")


def stored(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file, or of the pieces in its place, put together."""
    if file.is_file() or not pieces.index_of(file).is_file():
        return read(file)
    with pieces.opened(file) as held:
        return dict(held)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; UserError when it is none."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UserError(f"no file {file}") from None
    except SafetensorError as error:
        start = file.read_bytes()[:64]
        if start.startswith(b"version https://git-lfs"):
            raise UserError(f"{file} is a Git LFS pointer, not weights: git lfs pull") from None
        raise UserError(f"{file} is no safetensors file, or is damaged: {error}") from None


def fill(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    """Copy `theirs` into `mine`, in place; nothing is changed unless all names and shapes agree."""
    lacking = [name for name in mine if name not in theirs]
    spare = [name for name in theirs if name not in mine]
    problems = [f"it has no '{name}'.{nearest(name, spare)}" for name in lacking]
    problems += [f"'{name}' has no place here.{nearest(name, lacking)}" for name in spare]
    problems += [
        f"'{name}' has shape {list(theirs[name].shape)}, {list(tensor.shape)} expected"
        for name, tensor in mine.items()
        if name in theirs and theirs[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 2} more)" if len(problems) > 2 else ""
        raise UserError(f"{what} does not fit: {' '.join(problems[:2])}{more}")
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])


def save(held: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file; OSError where the disk refuses."""
    # no metadata: safetensors writes several entries in random order, equal runs give equal files
    try:
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, file)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def randomness() -> dict[str, Any]:
    """The state of every global random generator, as JSON."""
    numpy = np.random.get_state(legacy=False)
    inner = numpy["state"]
    version, words, gauss = random.getstate()
    state = {
        "torch": _text(torch.get_rng_state().numpy()),
        "numpy": {**numpy, "state": {**inner, "key": _text(inner["key"].astype("<u4"))}},
        "python": [version, _text(np.array(words, "<u4")), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = [_text(one.numpy()) for one in torch.cuda.get_rng_state_all()]
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Put every global random generator where `randomness` found it."""
    torch.set_rng_state(_tensor(state["torch"]))
    inner = state["numpy"]["state"]
    key = np.frombuffer(base64.b64decode(inner["key"]), "<u4").astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**inner, "key": key}})
    version, words, gauss = state["python"]
    numbers = np.frombuffer(base64.b64decode(words), "<u4").tolist()
    random.setstate((version, tuple(numbers), gauss))
    if torch.cuda.is_available() and len(state.get("cuda", [])) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_tensor(one) for one in state["cuda"]])


def _text(state: NDArray[Any]) -> str:
    return base64.b64encode(state.tobytes()).decode("ascii")


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
