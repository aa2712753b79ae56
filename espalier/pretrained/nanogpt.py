"""nanoGPT's ckpt.pt: weights, AdamW's moments, the iteration, and the training configuration.

Forks of nanoGPT keep its file and add to it: what they add is a `Dialect`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from espalier.config import decode
from espalier.errors import UserError
from espalier.nn.gpt import GPTConfig
from espalier.pretrained import files
from espalier.pretrained.foreign import Foreign, Moments
from espalier.pretrained.table import Row, both, to_ours

TRUNK, LAYER = "trunk.stack.blocks.{i}", "transformer.h.{i}"
TABLE = [
    Row("trunk.embed.weight", "transformer.wte.weight"),
    Row("trunk.position.weight", "transformer.wpe.weight"),
    *both(f"{TRUNK}.norm_1", f"{LAYER}.ln_1"),
    *both(f"{TRUNK}.attention.qkv", f"{LAYER}.attn.c_attn"),
    *both(f"{TRUNK}.attention.out", f"{LAYER}.attn.c_proj"),
    *both(f"{TRUNK}.norm_2", f"{LAYER}.ln_2"),
    *both(f"{TRUNK}.ffn.up", f"{LAYER}.mlp.c_fc"),
    *both(f"{TRUNK}.ffn.down", f"{LAYER}.mlp.c_proj"),
    *both("trunk.norm", "transformer.ln_f"),
    Row("head.weight", "lm_head.weight"),
]
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
Tensors = Mapping[str, Tensor]
PREFIXES = ("_orig_mod.", "module.")  # left by torch.compile and DistributedDataParallel
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


@dataclass(frozen=True)
class Dialect:
    """What a file holds beyond nanoGPT's, or in place of it."""

    kind: str = "nanogpt"
    table: Sequence[Row] = field(default_factory=lambda: TABLE)
    keys: frozenset[str] = frozenset()
    """of model_args"""
    model: Mapping[str, Any] = field(default_factory=dict)
    """onto the configuration that nanoGPT's keys give"""
    join: Callable[[Tensors], Tensors] = lambda tensors: tensors
    """tensors that are one of ours made one"""


def read(file: Path) -> Foreign:
    """Raises UserError where the file is not nanoGPT's, or its parts do not fit one another."""
    return interpret(load(file), file, Dialect())


def load(file: Path) -> dict[str, Any]:
    """What the file holds; its model and model_args are there."""
    return checked(files.read_torch(file), file)


def checked(found: Any, file: Path) -> dict[str, Any]:
    """What a torch file held, where it is nanoGPT's."""
    if not isinstance(found, dict) or not {"model", "model_args"} <= set(found):
        raise UserError(
            f"{file} is a torch file, but not nanoGPT's: it has no model and model_args"
        )
    if not isinstance(found["model_args"], Mapping):
        raise UserError(f"{file}: model_args is not a dictionary")
    return found


def interpret(found: Mapping[str, Any], file: Path, dialect: Dialect) -> Foreign:
    """The model in our names. Raises UserError where its parts do not fit one another."""
    theirs = tensors(found["model"], file)
    tied = HEAD not in theirs or theirs[HEAD].equal(theirs.get(EMBEDDING, theirs[HEAD]))
    if tied and HEAD in theirs:
        head = theirs.pop(HEAD)
        theirs.setdefault(EMBEDDING, head)
    config = _config(found["model_args"], tied, file, dialect)

    def ours(given: Tensors, where: str) -> dict[str, Tensor]:
        return to_ours(dialect.join(given), dialect.table, config, where)

    step = found.get("iter_num", 0)
    return Foreign(
        kind=dialect.kind,
        path=file,
        config=config,
        weights=ours(theirs, str(file)),
        step=step if isinstance(step, int) else 0,
        moments=_moments(found.get("optimizer"), theirs, ours, file),
        settings=_settings(found.get("config")),
        val_loss=_number(found.get("best_val_loss")),
    )


def tensors(model: Any, file: Path) -> dict[str, Tensor]:
    """The state dict by bare names, without masks."""
    if not isinstance(model, Mapping) or not all(isinstance(t, Tensor) for t in model.values()):
        raise UserError(f"{file}: model is not a dictionary of tensors")
    found = {}
    for name, tensor in model.items():
        bare = name
        while bare.startswith(PREFIXES):
            bare = bare.partition(".")[2]
        if not bare.endswith(".attn.bias"):  # the causal mask of torch before 2.0
            found[bare] = tensor
    return found


def _config(args: Mapping[str, Any], tied: bool, file: Path, dialect: Dialect) -> GPTConfig:
    missing = [name for name in SIZES if not isinstance(args.get(name), int)]
    if missing:
        raise UserError(f"{file}: model_args lacks {', '.join(missing)}")
    foreign = sorted(set(args) - {*SIZES, "bias", "dropout", *dialect.keys})
    if foreign:
        raise UserError(f"{file} is of a fork of nanoGPT: model_args has {', '.join(foreign)}")
    tree: dict[str, Any] = {name: args[name] for name in SIZES}
    tree |= {"bias": bool(args.get("bias", True)), "dropout": float(args.get("dropout", 0.0))}
    tree |= {"head": "tied" if tied else "untied", **dialect.model}
    return decode(GPTConfig, tree, "model")


def _moments(
    optimizer: Any,
    theirs: Tensors,
    ours: Callable[[Tensors, str], dict[str, Tensor]],
    file: Path,
) -> Moments | None:
    """AdamW's state, which nanoGPT numbers: first what decays (matrices), then what does not."""
    if not isinstance(optimizer, Mapping) or not optimizer.get("state"):
        return None
    order = [name for name in theirs if theirs[name].ndim >= 2]
    order += [name for name in theirs if theirs[name].ndim < 2]
    state = optimizer["state"]
    if sorted(state) != list(range(len(order))):
        raise UserError(
            f"{file}: the optimizer knows {len(state)} tensors, the model has {len(order)}"
        )
    for number, name in enumerate(order):
        if state[number]["exp_avg"].shape != theirs[name].shape:
            raise UserError(f"{file}: the optimizer's tensor {number} does not fit {name}")
    first, second = (
        ours({name: state[i][key] for i, name in enumerate(order)}, f"{file} (optimizer)")
        for key in ("exp_avg", "exp_avg_sq")
    )
    return Moments(int(max(float(entry["step"]) for entry in state.values())), first, second)


def _settings(config: Any) -> dict[str, Any]:
    plain = (str, int, float, bool)
    found = config if isinstance(config, Mapping) else {}
    return {key: value for key, value in found.items() if isinstance(value, plain)}


def _number(value: Any) -> float | None:
    """nanoGPT keeps its best loss as a tensor; 1e9 stands for none yet."""
    if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1):
        return float(value) if float(value) < 1e9 else None
    return None
