"""What of a model is trained: all, all but what `train.freeze` names, or adapters alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from espalier.errors import ConfigError
from espalier.train import lora
from espalier.train.settings import TrainConfig
from espalier.train.slots import Optimizer

TABLES = ("trunk.embed.weight", "head.weight")  # a row for each token
POSITIONS = "trunk.position.weight"  # a row for each place in the block


def prepare(model: nn.Module, config: TrainConfig, seed: int) -> None:
    """Freeze and adapt. ConfigError for a pattern that names nothing, or where nothing is left."""
    freeze(model, config.freeze)
    if config.lora is not None:
        if config.init is None:
            raise ConfigError("train.lora adapts the weights of another model: set train.init")
        lora.adapt(model, config.lora, seed)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("train.freeze leaves nothing to train")


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """What the patterns name is not trained. ConfigError for one that names nothing."""
    for pattern in patterns:
        found = lora.named(model, pattern)
        if not found:
            kinds = {".".join(name.split(".")[:2]) for name, _ in model.named_parameters()}
            raise ConfigError(
                f"train.freeze: '{pattern}' names no parameter; they begin with "
                f"{', '.join(sorted(kinds))}"
            )
        for parameter in found.values():
            parameter.requires_grad_(False)


def confirm(model: nn.Module, optimizer: Optimizer) -> None:
    """The optimizer itself must know no parameter that is frozen."""
    held = {name.rpartition(".")[0] for name in optimizer.state()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert held.isdisjoint(frozen), f"frozen, but trained: {sorted(held & frozen)}"


def shortened(theirs: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`theirs` without the positions past the block of `model`, which they cannot lengthen."""
    found, mine = dict(theirs), dict(model.named_parameters())
    if POSITIONS in theirs and POSITIONS in mine:
        found[POSITIONS] = theirs[POSITIONS][: len(mine[POSITIONS])]
    return found


def widened(theirs: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`theirs`, with rows for the tokens that `model` has more: each the mean of all others.

    So a new token starts as likely as the average one (Hewitt 2021, "Initializing New Word
    Embeddings for Pretrained Language Models"). They start alike, so that ConfigError is raised
    where they would stay so.
    """
    found, mine = dict(theirs), dict(model.named_parameters())
    for name in TABLES:
        if name not in theirs or name not in mine:
            continue
        table, wanted = theirs[name], mine[name].shape
        more = wanted[0] - len(table)
        if more > 0 and table.shape[1:] == wanted[1:]:
            if not mine[name].requires_grad:
                raise ConfigError(
                    f"{more} new tokens need rows of {name}, which is frozen: train it too "
                    f"(train.lora.also=[{name}])"
                )
            mean = table.mean(0, keepdim=True)
            found[name] = torch.cat([table, mean.expand(more, *wanted[1:])])
    return found
